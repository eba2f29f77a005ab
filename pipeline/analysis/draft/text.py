"""Write a draft as YAML with a comment for each choice."""

from collections.abc import Iterable, Iterator
from textwrap import wrap

from pipeline.analysis.draft.entries import Draft, Entry
from pipeline.config import flow_yaml
from pipeline.printable import printable

_WIDTH = 100


def as_yaml(draft: Draft, about: Iterable[str]) -> str:
    """Return the text of the file. about: sentences for its head."""
    lines = [line for sentence in about for line in _comment(sentence)]
    for entry in draft.top:
        lines += _entry(entry, 0)
    lines += _section("inputs", draft.inputs)
    lines += _section("measures", draft.measures)
    for name, reason in draft.left_out.items():
        lines += _comment(f"left out: {name}: {reason}", 2)
    return "\n".join([*lines, *_entry(draft.workers, 0), ""])


def _section(name: str, entries: tuple[Entry, ...]) -> Iterator[str]:
    if not entries:
        return
    # A key whose entries are all comments would have the value null.
    all_off = all(one.off for one in entries)
    yield f"# {name}:" if all_off else f"{name}:"
    for entry in entries:
        yield from _entry(entry, 2)


def _entry(entry: Entry, indent: int) -> Iterator[str]:
    yield from _comment(entry.reason, indent)
    value = "" if entry.value is None else f" {flow_yaml(entry.value)}"
    yield f"{' ' * indent}{'# ' if entry.off else ''}{flow_yaml(entry.key)}:{value}"


def _comment(text: str, indent: int = 0) -> list[str]:
    start = f"{' ' * indent}# "
    return [f"{start}{line}" for line in wrap(printable(text), _WIDTH - len(start))]
