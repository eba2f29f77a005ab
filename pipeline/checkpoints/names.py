"""What the name of a folder, branch or tag says of the checkpoint that it holds."""

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
    """A checkpoint's name, taken apart.

    tokens_seen: as rounded as the name has it (`step1000-tokens4B`). stage: of a run trained in
    stages (`stage1-step1000-tokens5B`), each of which counts its own steps; "" for all others.
    """

    step: int
    tokens_seen: int | None = None
    stage: str = ""


def parse_name(name: str) -> Name | None:
    """The checkpoint that a name stands for, None if it is not a checkpoint's name.

    A temporary name (`tmp-checkpoint-5`, `checkpoint-5.tmp`, `.step-5`) is none.
    """
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
    """Whether a save that is renamed into place at its end may have this name until then."""
    match = _TEMPORARY.fullmatch(name)
    return match is not None and match["name"] != name and parse_name(match["name"]) is not None
