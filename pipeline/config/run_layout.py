"""The names of a run's checkpoints, and the places of their parts: keys of an analysis."""

import os
import re
from functools import lru_cache

from pydantic import Field, field_validator

from pipeline.config.faults import Strict
from pipeline.config.places import Place

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_MOST_WILD = 4
# The numbers in a name, by placeholder: tokens may have a unit, `4.2B`.
NUMBERS = {
    "step": r"\d{1,15}",
    "epoch": r"\d{1,15}",
    "tokens": r"\d{1,15}(?:\.\d{1,9})?(?:[kK]|[mMbB]T?|[tT])?",
}


class RunLayout(Strict):
    """The names of a run's checkpoints and the places of their parts, if they are not recognised.

    names: the names of the checkpoints, as in `my-run-{step}`, instead of the known ones; with
    `{step}`, `{epoch}` or `{tokens}` (`4B` is understood) for numbers, `*` for any text, and after
    a `/` the folder in each of them that is the model's. config: a config.json for checkpoints that
    have none. base: the folder or address of the base model of LoRA adapters. follow_links: read
    the targets of links that lead out of the run.
    """

    names: str | None = Field(default=None, max_length=200)
    config: Place | None = None
    base: Place | None = None
    follow_links: bool = False

    @field_validator("names")
    @classmethod
    def _gives_a_number(cls, pattern: str | None) -> str | None:
        """Refuse a pattern that does not give the number of a checkpoint."""
        if pattern is not None:
            _refuse_unusable(pattern)
        return pattern


def with_absolute_paths(layout: RunLayout) -> RunLayout:
    """Return a layout whose paths do not depend on the working directory."""
    given = {"config": layout.config, "base": layout.base}
    paths = {key: path for key, path in given.items() if path and "://" not in path}
    return layout.model_copy(update={key: os.path.realpath(path) for key, path in paths.items()})


@lru_cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern of names as a regular expression with a group for each placeholder."""
    pieces = _PLACEHOLDER.split(pattern)  # text and names of placeholders, by turns
    return re.compile(
        "".join(
            f"(?P<{piece}>{NUMBERS[piece]})" if at % 2 else re.escape(piece).replace(r"\*", ".*")
            for at, piece in enumerate(pieces)
        )
    )


def _refuse_unusable(pattern: str) -> None:
    pieces = _PLACEHOLDER.split(pattern)
    given, between = pieces[1::2], pieces[2:-1:2]
    expected = "expected one or more of {step}, {epoch} and {tokens}, as in my-run-{step}"
    if unknown := [name for name in given if name not in NUMBERS]:
        raise ValueError(f"{pattern!r} has {{{unknown[0]}}}, {expected}")
    if not given:
        raise ValueError(f"{pattern!r} gives no number of a checkpoint, {expected}")
    if len(set(given)) < len(given):
        raise ValueError(f"{pattern!r} has a placeholder twice: give each once")
    if "" in between or "**" in pattern or "*{" in pattern:
        raise ValueError(f"{pattern!r} does not say where one number ends: put text between them")
    if pattern.count("*") > _MOST_WILD:
        raise ValueError(f"{pattern!r} has more than {_MOST_WILD} times '*': write out some text")
    if any(part in ("", ".", "..") for part in pattern.split("/")):
        raise ValueError(f"{pattern!r} is no path within a run: leave out empty parts and '..'")
