"""List and read the checkpoints of a run, from a local folder, S3 or the Hugging Face Hub."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.converted import converted_uri
from pipeline.checkpoints.left_out import LeftOut
from pipeline.checkpoints.listing import described, finished
from pipeline.checkpoints.places import place_of
from pipeline.config import saved_model

__all__ = ["Checkpoint", "LeftOut", "Listing", "list_checkpoints", "list_run"]


@dataclass(frozen=True)
class Listing:
    """The checkpoints of a run, ordered by step, and entries that may be checkpoints but are not.

    left_out: each with its kind ("unfinished", "name not understood" or "no weights") and reason.
    """

    checkpoints: tuple[Checkpoint, ...]
    left_out: tuple[LeftOut, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the listing as JSON values, without the files of each checkpoint."""
        shown = ("step", "uri", "tokens_seen", "digest")
        return {
            "checkpoints": [{key: getattr(c, key) for key in shown} for c in self.checkpoints],
            "left_out": [asdict(one) for one in self.left_out],
        }


def list_checkpoints(
    uri: str, tokens_per_step: int | None = None, model: Mapping[str, Any] | None = None
) -> list[Checkpoint]:
    """Return the checkpoints of a run, ordered by step, without reading weights.

    uri: a local folder or `s3://bucket/prefix` with one folder per checkpoint (`step-N`, `stepN`,
    `checkpoint-N`, `global_stepN`), or `hf://owner/name` with a branch or tag per checkpoint (the
    same names, also `stepN-tokensMB` and `stage1-stepN-tokensMB`); each checkpoint has its
    `config.json` and its weights. Checkpoints that a run is still writing are left out, see
    `pipeline.checkpoints.unfinished`; `list_run` returns them with the reasons.
    tokens_per_step: gives `tokens_seen` if a Trainer did not count them. model: config fields that
    `.pth` files lack, see `pipeline.config.SavedModel`.

    Raises InputError if there is no checkpoint, or if two have the same step.
    """
    return list(list_run(uri, tokens_per_step, model).checkpoints)


def list_run(
    uri: str, tokens_per_step: int | None = None, model: Mapping[str, Any] | None = None
) -> Listing:
    """Return the result of `list_checkpoints`, and the entries left out with the reasons."""
    read_from = converted_uri(uri, saved_model(model))
    place = place_of(read_from)
    listed = finished(place, read_from)
    return Listing(tuple(described(place, listed.found, tokens_per_step)), listed.left_out)
