"""The checkpoints of a run, with the tokens seen according to its own training.yaml."""

from collections.abc import Mapping
from typing import Any

from pipeline.checkpoints import Listing
from pipeline.checkpoints.files import RUN_FILE
from pipeline.checkpoints.listing import described, finished_in
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.stored import Folder
from pipeline.config import RunLayout


def list_with_tokens(
    uri: str,
    tokens_per_step: int | None,
    model: Mapping[str, Any],
    layout: RunLayout | None = None,
) -> Listing:
    """List a run as `list_run` does, with the tokens seen according to its own training.yaml."""
    listing = finished_in(uri, layout, model, tokens_per_step)
    tokens = tokens_per_step or declared_tokens_per_step(listing.run)
    checkpoints = described(listing, tokens)
    return Listing(tuple(checkpoints), listing.left_out, listing.notes)


def declared_tokens_per_step(run: Folder | str) -> int | None:
    """Return the training tokens per step that the run's own training.yaml declares, or None."""
    run_folder = metadata_folder(run)
    if not (run_folder / RUN_FILE).is_file():
        return None
    from pipeline.training import load_run, tokens_per_step  # few runs need it

    return tokens_per_step(load_run(run_folder))
