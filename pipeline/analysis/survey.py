"""The survey of an analysis: its checkpoints, with the result of their audit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.auditing import Audit, audit_found
from pipeline.checkpoints import Checkpoint, LeftOut, Listing
from pipeline.checkpoints.foreign import converted_uri
from pipeline.checkpoints.listing import described, finished
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.selection import select
from pipeline.checkpoints.stored import Folder
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.store.non_finite import known_weights
from pipeline.training import load_run, tokens_per_step
from pipeline.training.config import RUN_FILE


@dataclass(frozen=True)
class Survey:
    """The listing of a run, with the checkpoints of an analysis.

    checkpoints: those to compute, selected and not masked, in order of step. verdict: the result of
    the audit of all checkpoints of the run; None without an audit. left_out: files and folders that
    may be checkpoints but were not listed. listed: all checkpoints of the run. run: the run's own
    folder, see `pipeline.checkpoints.stored.PlaceContents`.
    """

    checkpoints: tuple[Checkpoint, ...]
    verdict: Audit | None
    run: Folder | str
    left_out: tuple[LeftOut, ...] = ()
    listed: tuple[Checkpoint, ...] = ()

    @property
    def masked(self) -> dict[int, str]:
        """The steps that the audit masks, with the reasons."""
        return {} if self.verdict is None else self.verdict.masked


def survey(analysis: Analysis) -> Survey:
    """List a run once, audit the listing, and select. Raises InputError; see `Analysis`.

    Weights that earlier runs found not to be finite are known from the store, by their digests.
    """
    place = place_of(analysis.checkpoints)
    listing = finished(place, converted_uri(analysis.checkpoints, analysis.model))
    tokens = analysis.tokens_per_step or _declared_tokens_per_step(listing.run)
    listed = described(place, listing.found, tokens)
    # All checkpoints are audited, also those that are not selected: copies are found in pairs, and
    # missing steps from the whole schedule.
    verdict = None
    if analysis.audit != "off":
        verdict = audit_found(place, analysis.checkpoints, listing, deep=analysis.audit == "deep")
        known = known_weights(Store(analysis.store))
        read = {one.step: known[one.digest] for one in listed if one.digest in known}
        verdict = verdict.with_non_finite(read)
    chosen = tuple(_chosen(analysis, listed, verdict))
    return Survey(chosen, verdict, listing.run, listing.left_out, tuple(listed))


def _chosen(
    analysis: Analysis, listed: list[Checkpoint], verdict: Audit | None
) -> list[Checkpoint]:
    """Return the checkpoints that are selected and not masked; raise InputError without any."""
    wanted = {} if analysis.select is None else analysis.select.model_dump()
    masked = {} if verdict is None else verdict.masked
    chosen = [one for one in select(listed, **wanted) if one.step not in masked]
    if not chosen:
        raise InputError(
            f"{analysis.checkpoints}: no checkpoint is left: all that are selected are masked "
            f"(step {min(masked)}: {masked[min(masked)]}); set `audit: off` to compute them anyway"
        )
    return chosen


def list_with_tokens(uri: str, tokens_per_step: int | None, model: Mapping[str, Any]) -> Listing:
    """List a run as `list_run` does, with the tokens seen according to its own training.yaml."""
    place = place_of(uri)
    listing = finished(place, converted_uri(uri, model))
    tokens = tokens_per_step or _declared_tokens_per_step(listing.run)
    return Listing(tuple(described(place, listing.found, tokens)), listing.left_out)


def _declared_tokens_per_step(run: Folder | str) -> int | None:
    """Return the training tokens per step that the run's own training.yaml declares, or None."""
    run_folder = metadata_folder(run)
    return tokens_per_step(load_run(run_folder)) if (run_folder / RUN_FILE).is_file() else None
