"""Draft: the entries of an analysis, each with the reason for it; and the request it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path
from typing import Any

from pipeline.measures import measure_class


@dataclass(frozen=True)
class Asked:
    """A request for a draft. text, tokenizer: as paths are to stand in the file.

    text_file: the same file for this process. column: of a data set given as text. layout: keys of
    an analysis, see `pipeline.config.RunLayout`.
    """

    checkpoints: str
    store: str
    text: str | None = None
    text_file: Path | None = None
    tokenizer: str | None = None
    column: str | None = None
    tokens_per_step: int | None = None
    model: dict[str, Any] | None = None
    layout: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A key of the file with its value, and the comment that says why.

    off: written as a comment, for the reader to switch on.
    """

    key: str
    value: Any
    reason: str = ""
    off: bool = False


@dataclass(frozen=True)
class Draft:
    """The entries of an analysis by section, and what is left out of it.

    top: entries at the outermost level. left_out: measures and inputs, each with the reason.
    guessed: sentences on what no file of the run states.
    """

    top: tuple[Entry, ...]
    inputs: tuple[Entry, ...]
    measures: tuple[Entry, ...]
    workers: Entry
    left_out: Mapping[str, str] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """Return the analysis as the file describes it."""
        return {
            **_on(self.top),
            "inputs": _on(self.inputs),
            "measures": _on(self.measures),
            **_on((self.workers,)),
        }


def _on(entries: tuple[Entry, ...]) -> dict[str, Any]:
    return {one.key: one.value for one in entries if not one.off}


def measure_entry(key: str, reason: str = "", **parameters: Any) -> Entry:
    """Return the entry of a measure; its comment begins with the measure's own definition."""
    defined = cleandoc(measure_class(key.partition(".")[0]).__doc__ or "").partition("\n\n")[0]
    said = " ".join(defined.split())
    return Entry(key, parameters or None, f"{said} {reason}".strip())
