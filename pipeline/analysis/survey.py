"""The survey of an analysis: its checkpoints, with the result of their audit."""

from dataclasses import dataclass

from pipeline.analysis.listing import declared_tokens_per_step
from pipeline.auditing import Audit, audit_found
from pipeline.checkpoints import Checkpoint, LeftOut
from pipeline.checkpoints.listing import described, finished_in
from pipeline.checkpoints.selection import select
from pipeline.checkpoints.stored import Folder
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.store.non_finite import known_weights


@dataclass(frozen=True)
class Survey:
    """The listing of a run, with the checkpoints of an analysis.

    checkpoints: those to compute, selected and not masked, in order of step. verdict: the result of
    the audit of all checkpoints of the run; None without an audit. left_out: files and folders that
    may be checkpoints but were not listed. listed: all checkpoints of the run. run: the run's own
    folder, see `pipeline.checkpoints.stored.PlaceContents`. notes: sentences on what the listing
    assumed.
    """

    checkpoints: tuple[Checkpoint, ...]
    verdict: Audit | None
    run: Folder | str
    left_out: tuple[LeftOut, ...] = ()
    listed: tuple[Checkpoint, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def masked(self) -> dict[int, str]:
        """The steps that the audit masks, with the reasons."""
        return {} if self.verdict is None else self.verdict.masked


def survey(analysis: Analysis) -> Survey:
    """List a run once, audit the listing, and select. Raises InputError; see `Analysis`.

    Weights that earlier runs found not to be finite are known from the store, by their digests.
    """
    listing = finished_in(analysis.checkpoints, analysis, analysis.model, analysis.tokens_per_step)
    tokens = analysis.tokens_per_step or declared_tokens_per_step(listing.run)
    listed = described(listing, tokens)
    # All checkpoints are audited, also those that are not selected: copies are found in pairs, and
    # missing steps from the whole schedule.
    verdict = None
    if analysis.audit != "off":
        verdict = audit_found(analysis.checkpoints, listing, deep=analysis.audit == "deep")
        known = known_weights(Store(analysis.store))
        read = {one.step: known[one.digest] for one in listed if one.digest in known}
        verdict = verdict.with_non_finite(read)
    chosen = tuple(_chosen(analysis, listed, verdict))
    return Survey(chosen, verdict, listing.run, listing.left_out, tuple(listed), listing.notes)


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
