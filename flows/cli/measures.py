"""`ontogeny measures`: describe measures as text, as JSON, or as the page docs/measures.md."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.app import Json, app
from flows.cli.output import say_json, say_lines
from pipeline.errors import InputError

PAGE = """# Measures

`ontogeny measures --format markdown` writes this page from what the measures declare. A measure
reads the input that its section names, or another one with the key `<measure>.<input>`.

The cost of a measure is the time that it takes alone, with its default parameters, divided by that
of a forward pass over its input (2 x 1024 tokens where it reads weights only), for a model of the
shape of pythia-70m. `tests/benchmarks/measure_costs.py` measures it. For measures that change heads
one by one, it is the cost of one head in each layer. Measures that share passes cost less
together."""


@app.command()
def measures(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            help="Names of measures, or an analysis (.yaml) or store, for all of its measures.",
        ),
    ] = None,
    as_json: Json = False,
    format: Annotated[str, typer.Option(help="text or markdown")] = "text",
) -> None:
    """Describe measures: what each computes, from which input, in which units, at what cost."""
    described = [one for name in names for one in _described(name)] if names else _all_described()
    if as_json:
        say_json(described)
    elif format in ("text", "markdown"):
        say_lines(_page(described) if format == "markdown" else _text(described))
    else:
        raise InputError(f"--format {format}: expected text or markdown")


def _all_described() -> list[dict[str, Any]]:
    """Describe all measures that are known by name."""
    from pipeline.measures.declared import declared
    from pipeline.measures.names import measures_of_entry_points

    own = sorted(measures_of_entry_points())
    return [*declared().values(), *(one for name in own for one in _named(name))]


def _described(name: str) -> list[dict[str, Any]]:
    """Describe a measure, or all measures of an analysis or a store."""
    place, colon, kind = name.rpartition(":")
    if name.endswith((".yaml", ".yml")):
        from pipeline.config import load_analysis
        from pipeline.measures.names import split_key

        keys = load_analysis(name).measures
        named = dict.fromkeys(split_key(key)[0] for key in keys)
        return [described for one in named for described in _named(one)]
    if place.endswith(".py"):  # relative to the working folder, not to an analysis
        return _named(f"{Path(place).resolve()}{colon}{kind}")
    if "/" in name or name.endswith(".zarr"):
        from pipeline.query.measures import stored_measures

        return stored_measures(name)
    return _named(name)


def _named(name: str) -> list[dict[str, Any]]:
    """Describe one measure; only those of the user's own are imported for it."""
    from pipeline.measures.declared import declared, refuse_unknown

    if name in declared():
        return [declared()[name]]
    refuse_unknown([name])
    from pipeline.measures import describe, measure_class

    return describe([measure_class(name)])


def _text(described: list[dict[str, Any]]) -> str:
    return "\n\n".join("\n".join(_lines(measure)) for measure in described)


def _lines(measure: dict[str, Any]) -> Iterator[str]:
    yield f"{measure['name']} (version {measure['version']})"
    if "defined_in" in measure:
        yield f"  defined in: {measure['defined_in']}"
    yield f"  input: {_input(measure)}"
    yield f"  cost: {_cost(measure)}"
    if measure.get("needs_heads"):  # older stores do not say it
        yield "  needs attention heads"
    for name, default in measure["parameters"].items():
        yield f"  parameter {name} = {default}"
    yield ""
    for line in measure["definition"].splitlines():
        yield f"    {line}".rstrip()
    yield ""
    for variable in measure["variables"]:
        yield f"  {variable['name']} ({', '.join(variable['dims'])}) [{variable['unit']}]"
        yield f"      {variable['definition']}"


def _page(described: list[dict[str, Any]]) -> str:
    return "\n\n".join([PAGE, *("\n".join(_section(measure)) for measure in described)])


def _section(measure: dict[str, Any]) -> Iterator[str]:
    yield f"## {measure['name']}"
    yield ""
    needs = " Needs attention heads." if measure.get("needs_heads") else ""
    yield f"Input: {_input(measure)}. Cost: {_cost(measure)}.{needs}"
    if measure["parameters"]:
        given = (f"`{name}` = {default}" for name, default in measure["parameters"].items())
        yield f"Parameters: {', '.join(given)}."
    yield f"\n{measure['definition']}\n"
    yield "| variable | dimensions | unit | meaning |"
    yield "| --- | --- | --- | --- |"
    for variable in measure["variables"]:
        source = f" ({variable['references']})" if variable["references"] else ""
        meaning = f"{variable['definition']}{source}".replace("|", "\\|")
        dims = ", ".join(variable["dims"])
        yield f"| `{variable['name']}` | {dims} | {variable['unit']} | {meaning} |"


def _input(measure: dict[str, Any]) -> str:
    return measure["default_input"] or "none, it reads weights only"


def _cost(measure: dict[str, Any]) -> str:
    cost = measure["cost"]
    return "not timed" if cost is None else f"{cost:.2g} forward passes"
