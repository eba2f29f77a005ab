"""Fault and Audit: the kinds of faults of checkpoints, and the result of an audit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.checkpoints.left_out import LeftOut, in_short

# Every kind of fault. Those that only the weights show are found by a deep audit alone.
KINDS: Mapping[str, str] = {
    "byte-identical": "its weights are those of another step, byte for byte",
    "final-weights": "it holds the weights of the last step",
    "missing-step": "the schedule that the other steps follow has this step too",
    "missing-file": "a file that a checkpoint must have is not there",
    "empty-file": "a weight file has no bytes or only zeros, or (deep) a matrix has",
    "truncated-file": "a weight file is shorter than its header says",
    "unreadable-file": "a file is not of the format that its name says, or would run code",
    "foreign-shard": "one of its shards belongs to another step, the others do not",
    "non-finite": "a weight is NaN or infinite (deep, or found when it was read)",
    "quantised": "its tensors or its config.json are those of a quantised model",
    "shape-mismatch": "its tensors do not have the names and shapes of its config.json",
    "other-config": "its config.json differs from that of the other steps",
    "unrelated-start": "step 0 is as far from the next step as weights of another seed (deep)",
    "near-duplicate": "its weights are those of another step except for rounding (deep)",
    "off-trend": "its weights are far from those of the steps around it (deep)",
}

# Numbers computed from such a checkpoint would be plausible and wrong. (Of the other kinds, reading
# the checkpoint fails, or there is none to read.)
MASKED = frozenset(
    {
        "byte-identical", "final-weights", "foreign-shard", "unrelated-start", "near-duplicate",
        "off-trend", "non-finite",
    }
)  # fmt: skip


# Reading such a checkpoint fails, as its listing, config or headers show.
UNREADABLE = frozenset(
    {
        "missing-file", "empty-file", "truncated-file", "unreadable-file", "quantised",
        "shape-mismatch",
    }
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Fault:
    """One fault: the step, the kind (a key of `KINDS`), and a sentence of details."""

    step: int
    kind: str
    detail: str


@dataclass(frozen=True)
class Audit:
    """The result of an audit: the number of checkpoints that were checked, and their faults.

    deep: their weights were read. left_out: entries that are not listed as checkpoints. notes:
    sentences on what the listing assumed.
    """

    uri: str
    checkpoints: int
    faults: tuple[Fault, ...]
    deep: bool = False
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def masked(self) -> dict[int, str]:
        """Steps that an analysis must leave out, each with the reason."""
        # reversed, so that of several faults of a step the first one is the reason
        return {
            fault.step: f"{fault.kind}: {fault.detail}"
            for fault in reversed(self.faults)
            if fault.kind in MASKED
        }

    def with_non_finite(self, found: Mapping[int, str]) -> "Audit":
        """Return the audit with the "non-finite" faults, by step, found when reading weights."""
        known = {fault.step for fault in self.faults if fault.kind == "non-finite"}
        new = {Fault(step, "non-finite", what) for step, what in found.items() if step not in known}
        return replace(self, faults=tuple(sorted({*self.faults, *new})))

    def sentence(self) -> str:
        """Return the result in one line."""
        if not self.faults:
            return (
                f"{self.uri}: {self.checkpoints} checkpoints, no fault found"
                f"{in_short(self.left_out)}"
            )
        steps = sorted({fault.step for fault in self.faults})
        shown = ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")
        return (
            f"{self.uri}: {self.checkpoints} checkpoints, {len(self.faults)} faults at "
            f"{len(steps)} steps: {shown}{in_short(self.left_out)}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return `{"uri", "checkpoints", "faults": [{"step", "kind", ...}], "left_out": [...]}`."""
        return {
            "uri": self.uri,
            "checkpoints": self.checkpoints,
            "faults": [asdict(fault) for fault in self.faults],
            "left_out": [asdict(one) for one in self.left_out],
            "notes": list(self.notes),
        }
