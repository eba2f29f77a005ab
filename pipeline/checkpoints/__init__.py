"""List and read the checkpoints of a run, from a local folder, S3 or the Hugging Face Hub."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.left_out import LeftOut
from pipeline.checkpoints.listing import described, finished_in
from pipeline.config import RunLayout, saved_model

__all__ = ["Checkpoint", "LeftOut", "Listing", "RunLayout", "list_checkpoints", "list_run"]


@dataclass(frozen=True)
class Listing:
    """The checkpoints of a run, ordered by step, and entries that may be checkpoints but are not.

    left_out: each with its kind ("unfinished", "name not understood" or "no weights") and reason.
    notes: sentences on what was assumed, such as what the numbers in the names count.
    """

    checkpoints: tuple[Checkpoint, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the listing as JSON values, without the files of each checkpoint."""
        shown = ("step", "uri", "tokens_seen", "digest")
        return {
            "checkpoints": [{key: getattr(c, key) for key in shown} for c in self.checkpoints],
            "left_out": [asdict(one) for one in self.left_out],
            "notes": list(self.notes),
        }


def list_checkpoints(
    uri: str,
    tokens_per_step: int | None = None,
    model: Mapping[str, Any] | None = None,
    layout: RunLayout | None = None,
) -> list[Checkpoint]:
    """Return the checkpoints of a run, ordered by step, without reading weights.

    uri: a local folder or `s3://bucket/prefix` with a folder or file per checkpoint, whose names
    are understood by `pipeline.checkpoints.names` (`step-N`, `checkpoint-N`, `iter_N`, `ckpt_N.pt`,
    ...), `hf://owner/name` with a branch or tag per checkpoint (the same names), or a CSV or JSON
    file with a step and an address for each. Checkpoints that a run is still writing are left out,
    see `pipeline.checkpoints.unfinished`; `list_run` returns them with the reasons.
    tokens_per_step: gives `tokens_seen` if a Trainer did not count them. model: config fields that
    `.pth` files lack, see `pipeline.config.SavedModel`. layout: how the checkpoints are named and
    where their parts lie, if it is not recognised, see `pipeline.config.RunLayout`.

    Raises InputError if there is no checkpoint, or if two have the same step.
    """
    return list(list_run(uri, tokens_per_step, model, layout).checkpoints)


def list_run(
    uri: str,
    tokens_per_step: int | None = None,
    model: Mapping[str, Any] | None = None,
    layout: RunLayout | None = None,
) -> Listing:
    """Return the result of `list_checkpoints`, the entries left out, and notes."""
    listed = finished_in(uri, layout, saved_model(model), tokens_per_step)
    checkpoints = described(listed, tokens_per_step)
    return Listing(tuple(checkpoints), listed.left_out, listed.notes)
