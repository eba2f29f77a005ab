"""Pages about the two ways to use the package: its commands and its Python names."""

from collections.abc import Iterator
from typing import Any

import typer

import pipeline
from flows.cli import app

COMMANDS = """# Commands

Every command prints its options with `--help`. With `--json` it prints JSON, where a program may
read the answer. The exit code is 0 if everything succeeded, 1 if some checkpoints could not be
analysed, a store is damaged or a storage does not answer, 2 if the request is invalid, 129 after
SIGHUP, 130 after Ctrl-C and 143 after SIGTERM.
"""

PYTHON = """# Python

These names of the package `pipeline` are its public API. Shapes are written as in
`jaxtyping`. They are imported at their first use: reading a store needs no torch.
"""

_KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def commands() -> str:
    """Return the page of all commands with their arguments and options."""
    group: Any = typer.main.get_command(app)
    parts = [COMMANDS]
    for path, command in _walk(group, "ontogeny"):
        parts += _section(path, command)
    return "\n".join(parts)


def python() -> str:
    """Return the page of the public names, which mkdocstrings fills in: functions, then classes."""
    names = [name for name in pipeline.__all__ if name != "__version__"]
    names.sort(key=lambda name: (name[0].isupper(), name))
    blocks = "\n\n".join(f"::: pipeline.{name}" for name in names)
    return f"{PYTHON}\n{blocks}\n"


def _walk(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _walk(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _section(path: str, command: Any) -> list[str]:
    parameters = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    usage = [path, *(["[OPTIONS]"] if options else []), *(_argument(one) for one in arguments)]
    lines = [f"## {path}", "", "```sh", " ".join(usage), "```", "", command.help or "", ""]
    for argument in arguments:
        lines += _entry(_argument(argument), argument)
    for option in options:
        lines += _entry(f"{_names(option)} {_value(option)}".strip(), option)
    return lines


def _entry(name: str, parameter: Any) -> list[str]:
    default = "required" if parameter.required else _default(parameter)
    many = "repeatable" if parameter.multiple else ""
    head = ", ".join(filter(None, [f"`{name}`", many, default]))
    return [head, f":   {parameter.help or ''}", ""]


def _argument(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    if argument.metavar:
        return name
    many = "..." if argument.nargs == -1 else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _names(option: Any) -> str:
    return "/".join([*option.opts, *option.secondary_opts])


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    return option.metavar or _KINDS.get(option.type_descriptor.annotation, "TEXT")


def _default(parameter: Any) -> str:
    default = parameter.default
    return "" if default in (None, False, "") or default == [] else f"default `{default}`"
