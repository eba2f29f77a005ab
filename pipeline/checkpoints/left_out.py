"""Report entries in a run's folder that may be checkpoints but are not listed, with the reason.

The kinds are:

unfinished: a checkpoint that is being written, or that a Trainer did not finish (`unfinished.py`).
name not understood: a folder with weights, or a weight file, whose name does not give a step.
no weights: a folder whose name resembles a checkpoint's, without weights directly in it.
not in the local cache: what was not downloaded from the Hub before it could not be reached.

Files that every run has beside its checkpoints are not reported: hidden files, configs, tokenizers,
logs, folders without weights (`runs`, `logs`), and the final model and the states that a Trainer
writes to the top of its output folder.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.checkpoints.names import SPELLINGS, is_temporary, parse_name
from pipeline.checkpoints.stored import Entry

UNFINISHED, UNNAMED, NO_WEIGHTS = "unfinished", "name not understood", "no weights"
UNCACHED = "not in the local cache"

_SHOWN = 4  # names in a line
_COUNTED = {
    UNFINISHED: "unfinished", UNNAMED: "of other names", NO_WEIGHTS: "without weights",
    UNCACHED: "not in the local cache",
}  # fmt: skip
_WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|distcp|gguf|index\.json)")
# The final model, and files that are part of a checkpoint or of a trainer's state.
_BESIDE = re.compile(
    r"(adapter_)?(model|pytorch_model|consolidated)([-.]\d+)?(-of-\d+)?\.(safetensors|bin|pth|pt)"
    r"|.*\.index\.json|(training_args|optimizer|scheduler|scaler|rng_state|random_states)\b.*"
    r"|rng_state_\d+\.pth|(train|val|test|tokenizer|vocab|tokens)\.(bin|pt)"
)
_LIKE_A_CHECKPOINT = re.compile(
    r"ckpt|chck|check|step|epoch|snapshot|\d.*tokens|tokens.*\d|(^|[^a-z])(iter|init|best|last|final)([^a-z]|$)"
    r"|^\d+[a-z]{0,2}$"
)


@dataclass(frozen=True, order=True)
class LeftOut:
    """An entry that is not listed: its kind (see the module), its name, and the reason."""

    kind: str
    name: str
    reason: str


def left_out_of(others: Iterable[Entry]) -> list[LeftOut]:
    """Return those of the entries without a checkpoint's name that may be checkpoints."""
    found = (_judged(entry) for entry in others)
    return [one for one in found if one is not None]


def in_lines(left_out: Iterable[LeftOut]) -> list[str]:
    """Return a line for each kind: their number, the first names, and the distinct reasons."""
    by_kind: dict[str, list[LeftOut]] = defaultdict(list)
    for one in sorted(left_out, key=_in_order):
        by_kind[one.kind].append(one)
    return [_line(kind, found) for kind, found in by_kind.items()]


def in_words(left_out: Iterable[LeftOut]) -> str:
    """Return a single line with the first names of each kind; "" if nothing is left out."""
    found = sorted(left_out, key=_in_order)
    kinds = dict.fromkeys(one.kind for one in found)
    return "; ".join(
        f"{_names([one for one in found if one.kind == kind])} ({kind})" for kind in kinds
    )


def in_short(left_out: Sequence[LeftOut]) -> str:
    """Return a clause with the number of each kind; "" if nothing is left out."""
    kinds = [one.kind for one in left_out]
    counts = [f"{kinds.count(kind)} {words}" for kind, words in _COUNTED.items() if kind in kinds]
    return f"; left out: {', '.join(counts)}" if counts else ""


def first_names(names: Iterable[str], most: int = _SHOWN, between: str = ", ") -> str:
    """Return the first of some names, and the number of the others."""
    # ascii(): control characters in an untrusted name could change the terminal's state.
    every = [name if name.isprintable() else ascii(name) for name in names]
    more = [f"and {len(every) - most} more"] * (len(every) > most)
    return between.join([*every[:most], *more])


def _judged(entry: Entry) -> LeftOut | None:
    if is_temporary(entry.name):
        return LeftOut(UNFINISHED, entry.name, "it has the name of a save that has not ended")
    if entry.reason:
        return LeftOut(entry.kind or UNNAMED, entry.name, entry.reason)
    if entry.name.startswith("."):
        return None
    like = _LIKE_A_CHECKPOINT.search(entry.name.lower()) is not None
    if entry.is_ref:
        return LeftOut(UNNAMED, entry.name, f"expected {SPELLINGS}") if like else None
    if entry.holds is None:
        is_weights = _WEIGHTS.fullmatch(entry.name) and not _BESIDE.fullmatch(entry.name)
        if is_weights or parse_name(entry.name):
            return LeftOut(UNNAMED, entry.name, "a file, expected a folder")
        return None
    if any(_WEIGHTS.fullmatch(name) for name in entry.holds):
        return LeftOut(UNNAMED, entry.name, f"expected {SPELLINGS}")
    return LeftOut(NO_WEIGHTS, entry.name, "none directly in it") if like else None


def _line(kind: str, found: Sequence[LeftOut]) -> str:
    line = f"{kind}: {len(found)} ({_names(found)})"
    if kind == UNFINISHED:
        return line
    return f"{line}: {', or '.join(dict.fromkeys(one.reason for one in found))}"


def _names(found: Sequence[LeftOut]) -> str:
    """Return the first names of one kind; those of unfinished checkpoints with their reasons."""
    if found[0].kind != UNFINISHED:
        return first_names(one.name for one in found)
    return first_names((f"{one.name}: {one.reason}" for one in found), between="; ")


def _in_order(one: LeftOut) -> tuple[str, list[int], str]:
    # By the numbers in the name, so that step-9 precedes step-10.
    return one.kind, [int(digits) for digits in re.findall(r"\d{1,18}", one.name)], one.name
