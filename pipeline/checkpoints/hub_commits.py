"""Find checkpoints among the commits of a branch on the Hub.

transformers' Trainer (`hub_strategy="every_save"`, its default) pushes the model at each save, with
the message "Training in progress, step 500" ("..., epoch 3" if it saves by epochs). pico-train
pushes it with "Saving HF Model -- Step 500", before its other files of the same step. A message
that is itself a checkpoint's name counts too.
"""

import re
from collections.abc import Iterable

from pipeline.checkpoints.hub_address import Address
from pipeline.checkpoints.hub_rows import Ref
from pipeline.checkpoints.hub_source import history
from pipeline.checkpoints.left_out import UNNAMED
from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.stored import Entry
from pipeline.config import RunLayout

_SAVES = (
    re.compile(r"Training in progress, (?P<unit>step|epoch) (?P<number>\d{1,15})"),
    re.compile(r"Saving HF Model -- (?P<unit>Step) (?P<number>\d{1,15})"),
)
_EXPECTED = (
    'a commit whose message gives no step; expected "Training in progress, step N" or a '
    "checkpoint's name"
)


def saves(head: Address, layout: RunLayout) -> tuple[list[Ref], list[Entry]]:
    """Return the commits with a checkpoint, under its name, and the other ones.

    head: the branch's last commit. Of several commits of one name the last one counts, as in a
    training that was resumed.
    """
    found: dict[str, Ref] = {}
    others: list[Entry] = []
    for commit in history(head):
        name = _name_in(commit.name, layout)
        if name is None:
            others.append(Entry(commit.name, kind=UNNAMED, reason=_EXPECTED))
        elif name in found:
            reason = f"a commit that was replaced by a later one of the same name, {name}"
            others.append(Entry(commit.commit, kind=UNNAMED, reason=reason))
        else:
            found[name] = Ref(name, commit.commit)
    return list(found.values()), _each_once(others)


def _name_in(title: str, layout: RunLayout) -> str | None:
    """Return the name of a checkpoint that a commit's title gives."""
    for pattern in _SAVES:
        if match := pattern.fullmatch(title.strip()):
            title = f"{match['unit'].lower()}-{match['number']}"
    return title if parse_name(title, layout) is not None else None


def _each_once(entries: Iterable[Entry]) -> list[Entry]:
    return list(dict.fromkeys(entries))
