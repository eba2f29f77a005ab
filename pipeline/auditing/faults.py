"""What can be wrong with a run's checkpoints, and what was found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.checkpoints.left_out import LeftOut, in_short

# Every kind of fault. Those that only the bytes show are found by a deep audit alone.
KINDS: Mapping[str, str] = {
    "byte-identical": "its weights are those of another step, byte for byte",
    "final-weights": "it holds the weights of the last step in disguise",
    "missing-step": "the schedule that the other steps follow has this step too",
    "missing-file": "a file that a checkpoint must have is not there",
    "empty-file": "a weight file has no bytes or only zeros, or (deep) a matrix has",
    "truncated-file": "a weight file is shorter than it says of itself",
    "unreadable-file": "a file is not what its name or its place says, or would run code",
    "foreign-shard": "one of its shards belongs to another step, the others do not",
    "non-finite": "a weight is NaN or infinite (deep, or found when it was read)",
    "quantised": "its tensors or its config.json are those of a quantised model",
    "shape-mismatch": "its tensors are not those of its config.json",
    "other-config": "its config.json is not that of the other steps",
    "unrelated-start": "step 0 lies far off the trend: of another seed (deep)",
    "near-duplicate": "its weights are those of another step but for rounding (deep)",
    "off-trend": "its weights lie far from those of the steps around it (deep)",
}

# Numbers computed from such a checkpoint would look right and be wrong. (The other kinds fail by
# themselves when the checkpoint is read, or are no checkpoint's.)
MASKED = frozenset(
    {
        "byte-identical", "final-weights", "foreign-shard", "unrelated-start", "near-duplicate",
        "off-trend", "non-finite",
    }
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Fault:
    """One fault: the step that it is at, its kind (a key of `KINDS`), and what was found."""

    step: int
    kind: str
    detail: str


@dataclass(frozen=True)
class Audit:
    """The verdict on a run: how many checkpoints were looked at, and what is wrong with them.

    deep: whether their bytes were read. left_out: what was not looked at, as it is not listed.
    """

    uri: str
    checkpoints: int
    faults: tuple[Fault, ...]
    deep: bool = False
    left_out: tuple[LeftOut, ...] = ()

    @property
    def masked(self) -> dict[int, str]:
        """The steps that an analysis must leave out, each with the reason."""
        return {
            fault.step: f"{fault.kind}: {fault.detail}"
            for fault in reversed(self.faults)
            if fault.kind in MASKED
        }

    def with_non_finite(self, found: Mapping[int, str]) -> "Audit":
        """The verdict with what the reading of weights has shown: by step, what is not finite."""
        known = {fault.step for fault in self.faults if fault.kind == "non-finite"}
        new = {Fault(step, "non-finite", what) for step, what in found.items() if step not in known}
        return replace(self, faults=tuple(sorted({*self.faults, *new})))

    def sentence(self) -> str:
        """The verdict in one line."""
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
        """`{"uri", "checkpoints", "faults": [{"step", "kind", "detail"}], "left_out": [...]}`."""
        return {
            "uri": self.uri,
            "checkpoints": self.checkpoints,
            "faults": [asdict(fault) for fault in self.faults],
            "left_out": [asdict(one) for one in self.left_out],
        }
