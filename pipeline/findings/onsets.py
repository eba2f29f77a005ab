"""Onsets and milestones of a run so far, each with its step, for events that are sent once."""

import xarray as xr

from pipeline.aggregate.phases import MILESTONES, SOLVED, milestones
from pipeline.findings.heads import Heads, heads_of, onsets
from pipeline.findings.number_format import at_step
from pipeline.findings.sentences import by_measure
from pipeline.models.head_names import head_name
from pipeline.query import open_run

# The patterns of attention whose first appearance in any head is worth a message.
_PATTERNS = {"induction": "induction head", "previous_token": "previous-token head"}


def onsets_of(store_uri: str) -> dict[str, str]:
    """Return a sentence with the step of each onset and milestone, by a key that identifies it.

    Keys do not change at later checkpoints: a caller that knows earlier keys can find new ones.
    Empty for a store without rows. Raises InputError where there is no store.
    """
    found: dict[str, str] = {}
    groups = by_measure(open_run(store_uri))
    for name in groups.get("head_scores", {}):
        # The group is part of the key: one measure on two inputs has two onsets.
        said_of = _heads(heads_of(groups, name))
        found |= {f"{name}: {key}": said for key, said in said_of.items()}
    for name, group in groups.get("modular_addition", {}).items():
        found |= {f"{name}: {key}": said for key, said in _losses(group).items()}
    return found


def _heads(heads: Heads) -> dict[str, str]:
    found = {}
    for pattern, head in _PATTERNS.items():
        if formed := onsets(heads, pattern):
            first = formed[0]
            found[f"first {head}"] = (
                f"The first {head} formed: {head_name(first.layer, first.head)} exceeded its null "
                f"by {heads.threshold:g} at {at_step(first.step)}."
            )
    return found


def _losses(group: xr.Dataset) -> dict[str, str]:
    """Return the milestones so far: a loss may rise again at a step that is not saved yet."""
    last = int(group["step"].values[-1])
    return {
        MILESTONES[loss]: f"{MILESTONES[loss].capitalize()}: {loss.replace('_', ' ')} "
        + (
            f"is below {SOLVED} nats at {at_step(step)}, the last saved so far."
            if step == last
            else f"stays below {SOLVED} nats from {at_step(step)} on, up to {at_step(last)}."
        )
        for loss, step in milestones(group).items()
        if step is not None
    }
