"""The mosaics of several runs beside each other."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.report.site.blocks import Section
from pipeline.report.site.heads import Head, heads_in
from pipeline.report.site.mosaic import mosaic_spec, said_about
from pipeline.report.site.run_data import Run
from pipeline.report.site.scores import Score, scores_of
from pipeline.report.site.specs import Figure, figure, source

MOST_RUNS = 12
MOST_FRAMES = 100


def mosaics_section(runs: Sequence[Run]) -> Section | None:
    """Return a mosaic of each run by the scores that all of them have; None for fewer than two."""
    found = [(run, scores) for run in runs if (scores := _scores(run))]
    if len(found) < 2:
        return None
    shown = found[:MOST_RUNS]
    common = set.intersection(*({one.address for one in scores} for _, scores in shown))
    if not common:
        return None
    note = "One slider moves all, each to its last checkpoint at or before that step."
    if len(found) > len(shown):
        note += f" {len(shown)} of {len(found)} runs are shown."
    return Section("mosaics", "All heads of each run", [*_mosaics(shown, common)], note)


def _scores(run: Run) -> list[Score]:
    """Return the scores of attention that are stored at the steps of the first."""
    every = [one for one in run.once(scores_of) if one.group.partition(".")[0] == "head_scores"]
    return [one for one in every if np.array_equal(one.steps, every[0].steps)]


def _mosaics(shown: Sequence[tuple[Run, list[Score]]], common: set[str]) -> Iterator[Figure]:
    for run, scores in shown:
        kept = [one for one in scores if one.address in common]
        spec = mosaic_spec(run, _heads(run, kept[0]), kept, MOST_FRAMES)
        spec["hrefs"] = [href and f"{run.slug}/{href}" for href in spec["hrefs"]]
        note = f"{len(kept[0].layers)} × {len(kept[0].heads)} heads.{said_about(spec)}"
        yield figure(f"mosaic-{run.slug}", run.name, note, {**spec, "group": "runs"}, run.slug,
                     source(run.uri, kept[0].group, kept[0].variable))  # fmt: skip


def _heads(run: Run, score: Score) -> list[Head]:
    places = {(layer, head) for layer in score.layers for head in score.heads}
    return [one for one in run.once(heads_in) if (one.layer, one.head) in places]
