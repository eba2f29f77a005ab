"""Report entries in a run's folder that may be checkpoints but are not listed, with the reason.

The kinds are:

unfinished: a checkpoint that is being written, or that a Trainer did not finish (`unfinished.py`).
name not understood: a folder with weights, or a weight file, whose name does not give a step.
no weights: a folder with a checkpoint's name that is empty, or in which several folders hold a
model; or one whose name resembles a checkpoint's, without weights directly in it.
not in the local cache: what was not downloaded from the Hub before it could not be reached.

Files that every run has beside its checkpoints are not reported: hidden files, configs, tokenizers,
logs, folders without weights (`runs`, `logs`), and the final model and the states that a Trainer
writes to the top of its output folder.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.checkpoints.names import SPELLINGS, is_checkpoint_file, is_temporary, parse_name
from pipeline.checkpoints.stored import Entry
from pipeline.config import RunLayout

UNFINISHED, UNNAMED, NO_WEIGHTS = "unfinished", "name not understood", "no weights"
UNCACHED = "not in the local cache"

_SHOWN = 4  # names in a line
_MOST_REASONS = 3  # in a line
_COUNTED = {
    UNFINISHED: "unfinished", UNNAMED: "of other names", NO_WEIGHTS: "without weights",
    UNCACHED: "not in the local cache",
}  # fmt: skip
_WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|distcp|gguf|index\.json)")
# The final model, and files that are part of a checkpoint or of a trainer's state.
_BESIDE = re.compile(
    r"(adapter_)?(model|pytorch_model|consolidated)([-.]\d+)?(-of-\d+)?\.(safetensors|bin|pth|pt)"
    r"|.*\.index\.json|(training_args|optimizer|scheduler|scaler|rng_state|random_states)\b.*"
    r"|rng_state_\d+\.pth|optim_\d+_rank\d+\.pt|(train|val|test|data|tokenizer|vocab|tokens)\.(bin|pt)"
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


def left_out_of(others: Iterable[Entry], layout: RunLayout) -> list[LeftOut]:
    """Return those of the entries without a checkpoint's name that may be checkpoints."""
    found = (_judged(entry, layout) for entry in others)
    return [one for one in found if one is not None]


def not_understood(name: str, layout: RunLayout) -> LeftOut:
    """Return an entry whose name does not give a step, with the key that would."""
    return LeftOut(UNNAMED, name, f"expected {expected_names(layout)}; {_remedy(name, layout)}")


def expected_names(layout: RunLayout) -> str:
    """Return the names of checkpoints in a run of this layout, in words."""
    return SPELLINGS if layout.names is None else f"{layout.names!r}, the given `names`"


def may_hold_weights(name: str) -> bool:
    """Return whether a file of this name may hold the weights of a checkpoint, in any format."""
    return bool(_WEIGHTS.fullmatch(name)) and not _BESIDE.fullmatch(name)


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
    return "; ".join(_in_words([one for one in found if one.kind == kind]) for kind in kinds)


def _in_words(found: Sequence[LeftOut]) -> str:
    kind = found[0].kind
    # Those of other names are told what is expected anyway.
    why = f": {found[0].reason}" if kind == NO_WEIGHTS else ""
    return f"{_names(found)} ({kind}{why})"


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


def _judged(entry: Entry, layout: RunLayout) -> LeftOut | None:
    if is_temporary(entry.name):
        return LeftOut(UNFINISHED, entry.name, "it has the name of a save that has not ended")
    if entry.reason:
        return LeftOut(entry.kind or UNNAMED, entry.name, entry.reason)
    if entry.name.startswith("."):
        return None
    if entry.is_ref:
        return not_understood(entry.name, layout) if _is_like(entry.name) else None
    if entry.holds is None:
        return _judged_file(entry, layout)
    if any(_WEIGHTS.fullmatch(name) for name in entry.holds):
        return not_understood(entry.name, layout)
    return LeftOut(NO_WEIGHTS, entry.name, "none directly in it") if _is_like(entry.name) else None


def _judged_file(entry: Entry, layout: RunLayout) -> LeftOut | None:
    if may_hold_weights(entry.name):
        return not_understood(entry.name, layout)
    if parse_name(entry.name, layout) and not is_checkpoint_file(entry.name, layout):
        return LeftOut(UNNAMED, entry.name, "a file, expected a folder")
    return None


def _is_like(name: str) -> bool:
    return _LIKE_A_CHECKPOINT.search(name.lower()) is not None


def _remedy(name: str, layout: RunLayout) -> str:
    """Return the advice to give a pattern of names."""
    changed = "change" if layout.names is not None else "give"
    return f'{changed} `names`, as in "{pattern_like(name)}"'


def pattern_like(name: str) -> str:
    """Return a pattern of names, made from a name if it has one number."""
    text = name.rpartition(".")[0] if _WEIGHTS.fullmatch(name) else name
    numbers = re.findall(r"\d+", text)
    usable = len(numbers) == 1 and text.isprintable() and not set("*{}/") & set(text)
    return text.replace(numbers[0], "{step}") if usable else "my-run-{step}"


def _line(kind: str, found: Sequence[LeftOut]) -> str:
    line = f"{kind}: {len(found)} ({_names(found)})"
    if kind == UNFINISHED:
        return line
    reasons = dict.fromkeys(one.reason for one in found)
    return f"{line}: {first_names(reasons, _MOST_REASONS, ', or ')}"


def _names(found: Sequence[LeftOut]) -> str:
    """Return the first names of one kind; those of unfinished checkpoints with their reasons."""
    if found[0].kind != UNFINISHED:
        return first_names(one.name for one in found)
    return first_names((f"{one.name}: {one.reason}" for one in found), between="; ")


def _in_order(one: LeftOut) -> tuple[str, list[int], str]:
    # By the numbers in the name, so that step-9 precedes step-10.
    return one.kind, [int(digits) for digits in re.findall(r"\d{1,18}", one.name)], one.name
