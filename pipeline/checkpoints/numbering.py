"""Give the checkpoints of a run their steps, from names that may give only epochs or tokens.

1. If any name gives a step, steps are counted. A name with only tokens then needs
   `tokens_per_step`, and one with only an epoch cannot be placed among them.
2. Otherwise, if the names give epochs, these are counted as the steps.
3. Otherwise the names give tokens. With `tokens_per_step` they are divided by it, and rounded to
   whole steps; without it, tokens are counted as the steps. (Numbering them in order would give a
   checkpoint another step whenever one before it is added or removed.)

Each of these is said in a note, and so is what may be a count of saves.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from pipeline.checkpoints.left_out import UNNAMED, LeftOut
from pipeline.checkpoints.names import Name

Names = Mapping[str, Name]

_SAYS_STEP = re.compile(r"step|iter|ba")
_FEWEST_SAVES = 3  # consecutive numbers that are probably no steps


@dataclass(frozen=True)
class Numbered:
    """Names with their steps, names that have none in this run, and sentences on both."""

    names: Names
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def numbered_names(names: Names, tokens_per_step: int | None) -> Numbered:
    """Return the names of a run's checkpoints with their steps; see the module.

    names: parsed, by the names of folders and files. tokens_per_step: None if unknown.
    """
    names, notes = _without_sizes(names)
    worded = {name: one for name, one in names.items() if not one.is_bare}
    chosen = worded or names
    bare = _left_out(names.keys() - chosen.keys(), "a number alone, beside names that say more")
    if any(one.step is not None for one in chosen.values()):
        made = _by_steps(chosen, tokens_per_step)
    elif any(one.epoch is not None for one in chosen.values()):
        made = _by_epochs(chosen, tokens_per_step)
    else:
        made = _by_tokens(chosen, tokens_per_step)
    return Numbered(made.names, (*bare, *made.left_out), (*notes, *made.notes))


def _by_steps(names: Names, tokens_per_step: int | None) -> Numbered:
    stepped = {name: one for name, one in names.items() if one.step is not None}
    others = {name: one for name, one in names.items() if one.step is None}
    with_tokens = {name: one for name, one in others.items() if one.tokens_seen is not None}
    epochs = _left_out(
        others.keys() - with_tokens.keys(), "it gives an epoch, and other names give steps"
    )
    if tokens_per_step is None:
        why = "it gives tokens, and other names give steps: give `tokens_per_step`"
        return Numbered(stepped, (*epochs, *_left_out(with_tokens, why)), _note_on_saves(stepped))
    placed = _by_tokens(with_tokens, tokens_per_step) if with_tokens else Numbered({})
    return Numbered({**stepped, **placed.names}, epochs, placed.notes)


def _by_epochs(names: Names, tokens_per_step: int | None) -> Numbered:
    counted = {
        name: replace(one, step=one.epoch, counts="epochs")
        for name, one in names.items()
        if one.epoch is not None
    }
    others = _left_out(
        names.keys() - counted.keys(), "it gives tokens, and other names give epochs"
    )
    notes = ["the names give epochs and no steps: each step is an epoch"]
    if tokens_per_step is not None:
        notes.append("tokens_per_step is not used, since the names give no steps")
    return Numbered(counted, others, tuple(notes))


def _by_tokens(names: Names, tokens_per_step: int | None) -> Numbered:
    """Return names that all give tokens with their steps."""
    size = tokens_per_step or 1
    tokens = {name: one.tokens_seen or 0 for name, one in names.items()}
    counted = {
        # Halves are rounded up, in integers: floats are too coarse for counts of tokens.
        name: replace(one, step=(2 * tokens[name] + size) // (2 * size), counts="tokens")
        for name, one in names.items()
    }
    if tokens_per_step is None:
        note = (
            "the names give tokens and no steps: each step is a count of tokens; give "
            "`tokens_per_step` for steps of the optimizer"
        )
    elif rest := [name for name, count in tokens.items() if count % size]:
        note = (
            f"the names give tokens and no steps: steps are tokens / {size:,}, rounded for "
            f"{len(rest)} of {len(names)} names"
        )
    else:
        note = f"the names give tokens and no steps: steps are tokens / {size:,}"
    return Numbered(counted, (), (note,) if names else ())


def _without_sizes(names: Names) -> tuple[Names, tuple[str, ...]]:
    """Return the names without a number that is equal in all of them, such as a model's size."""
    tokens = [one.tokens_seen for one in names.values()]
    if len({one.step for one in names.values()} - {None}) < 2 or None in tokens:
        return names, ()
    if len(set(tokens)) > 1:
        return names, ()
    note = f"all names give {tokens[0]:,} tokens: this number is not taken as tokens seen"
    return {name: replace(one, tokens_seen=None) for name, one in names.items()}, (note,)


def _note_on_saves(names: Names) -> tuple[str, ...]:
    """Return a note if the numbers may count saves: they are consecutive, and no word says steps.

    As in `ckpt_358`, the last of 359 that Amber has.
    """
    steps = sorted(one.step for one in names.values() if one.step is not None)
    consecutive = all(later == one + 1 for one, later in pairwise(steps))
    if len(steps) < _FEWEST_SAVES or not consecutive or any(map(_SAYS_STEP.search, names)):
        return ()
    return (
        "the numbers in the names are consecutive and may count saves: each is taken as a step; "
        "list the checkpoints in a CSV file to give others",
    )


def _left_out(names: Iterable[str], why: str) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(UNNAMED, name, why) for name in sorted(names))
