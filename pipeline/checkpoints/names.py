"""Parse the names of checkpoints: of folders, branches and tags."""

import re
from dataclasses import dataclass

SPELLINGS = "step-N, stepN, checkpoint-N or global_stepN"

_NAME = re.compile(
    r"(?:(?P<stage>stage\d+(?:-ingredient\d+)?)-)?"
    r"(?:step[-_]?|checkpoint-|global_step)(?P<step>\d{1,15})"
    r"(?:-tokens(?P<tokens>\d{1,15})(?P<unit>[KMBT]?))?"
)
_TEMPORARY = re.compile(r"[._]*(?:tmp[-_.])?(?P<name>.+?)(?:[-_.](?:tmp|temp|partial|incomplete))?")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Name:
    """The parts of a checkpoint's name.

    tokens_seen: rounded as in the name (`step1000-tokens4B`). stage: for runs trained in stages
    (`stage1-step1000-tokens5B`), each of which counts its own steps; "" for all others.
    """

    step: int
    tokens_seen: int | None = None
    stage: str = ""


def parse_name(name: str) -> Name | None:
    """Return the parts of a checkpoint's name, None if it is no checkpoint's name.

    Temporary names (`tmp-checkpoint-5`, `checkpoint-5.tmp`, `.step-5`) are none.
    """
    # isascii, because \d matches the digits of all scripts.
    match = _NAME.fullmatch(name)
    if match is None or not name.isascii():
        return None
    tokens = match["tokens"]
    return Name(
        step=int(match["step"]),
        tokens_seen=None if tokens is None else int(tokens) * _UNITS[match["unit"]],
        stage=match["stage"] or "",
    )


def is_temporary(name: str) -> bool:
    """Return whether this is the name of a save that is renamed into place when it is complete."""
    match = _TEMPORARY.fullmatch(name)
    return match is not None and match["name"] != name and parse_name(match["name"]) is not None
