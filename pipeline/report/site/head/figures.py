"""The figures of a head's page: its scores with their nulls, and the effect of removing it."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from pipeline.findings.number_format import in_words, listed
from pipeline.measures.head_patterns import NULLS
from pipeline.report.site.arrays import Json, exact, integers
from pipeline.report.site.head.shared import RunHeads, stored_line
from pipeline.report.site.heads import Head
from pipeline.report.site.scores import Score
from pipeline.report.site.specs import (
    Figure,
    band,
    figure,
    lines,
    role_of,
    series,
    source,
    step_axis,
    strips,
    y_axis,
)

MOST_LINES = 32  # heads whose lines are drawn behind a head's own; of more, their range
_ABLATION = "head_ablation"


def onset_band(head: Head) -> list[Json]:
    """Return the band of a head's onset: its rise from 10 to 90%, else the two checkpoints."""
    if (onset := head.onset) is None:
        return []
    if (one := onset.transition) is not None:
        return [band(one.onset, one.end, "10 to 90% of its rise")]
    before = head.before[str(head.pattern)]
    return [] if before is None else [band(before, onset.step, "label begins")]


def main_figure(shared: RunHeads, head: Head) -> Figure | None:
    """Return the score that a head is called after, with its null, its rule and the others."""
    score = next((one for one in shared.scores if shared.is_main(head, one)), None)
    own = None if score is None else score.of(head.layer, head.head)
    if score is None or own is None:
        return None
    own_line = stored_line(
        head.name, own, score.group, score.variable, role=head.role, emphasis=True
    )
    null, rules = _null_and_rule(shared, score, head)
    drawn = [*_others(shared, score, head), *null, own_line]
    y = y_axis(in_words(score.variable), score.unit, score.limits)
    return _figure(
        shared, head, score, "main", f"{score.title.capitalize()} over training",
        f"{score.definition} {_said_of_null(shared, [score], head)}",
        lines(step_axis(score.steps), y, drawn, onset_band(head), rules),
    )  # fmt: skip


def _figure(
    shared: RunHeads, head: Head, score: Score, id: str, title: str, note: str, spec: Json
) -> Figure:
    """Return a figure of a head that has the source of a score."""
    origin = source(shared.run.uri, score.group, score.variable, layer=head.layer, head=head.head)
    return figure(id, title, note, spec, f"{shared.run.slug}-{head.name}", origin)


def _others(shared: RunHeads, score: Score, head: Head) -> Iterator[Json]:
    if len(shared.heads) <= MOST_LINES:
        for other in shared.heads:
            values = score.of(other.layer, other.head)
            if other != head and values is not None:
                yield series(other.name, values, href=other.href)
        return
    flat = score.values.reshape(len(score.steps), -1)
    known = np.where(np.isfinite(flat), flat, np.nan)
    if np.isfinite(known).any():
        # Not `nanmin`, which warns at steps where all are NaN; `fmin` returns NaN only then.
        ends = {"low": exact(np.fmin.reduce(known, 1)), "high": exact(np.fmax.reduce(known, 1))}
        yield {"name": "all heads", "role": "none", **ends}


def _rule(shared: RunHeads, score: Score, head: Head) -> Float[np.ndarray, " step"] | None:
    """Return what a score needs for a label: its null and the threshold; None without a rule.

    Scores on other inputs give no labels.
    """
    null = score.null_of(head.layer, head.head)
    if score.group != shared.group:
        return None
    if null is None or shared.main is None or NULLS.get(score.variable) != score.null_name:
        return None
    return (null + shared.main.threshold).astype(np.float32)


def _null_and_rule(shared: RunHeads, score: Score, head: Head) -> tuple[list[Json], list[Json]]:
    """Return the null of a score, and the area that is too low for a label, as series or rule."""
    null = score.null_of(head.layer, head.head)
    if null is None:
        return [], []
    drawn = [stored_line("null", null, score.group, score.null_name, dashed=True)]
    rule = _rule(shared, score, head)
    if rule is None:
        return drawn, []
    if (rule == rule[0]).all():
        return drawn, [{"y": float(rule[0]), "label": "rule", "shade": True}]
    zero = integers(np.zeros(len(rule), dtype=np.int64))
    area = {"name": "too low for a label", "role": "none", "low": zero, "high": exact(rule)}
    return [area, *drawn], []


def _said_of_null(shared: RunHeads, of: Sequence[Score], head: Head) -> str:
    """Return what the dashed line and the grey area of a figure are; "" without a null."""
    if all(one.null_of(head.layer, head.head) is None for one in of):
        return ""
    said = "Dashed: the null, where one is stored."
    if shared.main is not None and any(_rule(shared, one, head) is not None for one in of):
        said += f" Grey area: less than {shared.main.threshold:g} above it, too low for a label."
    return said


def effect_figure(shared: RunHeads, head: Head) -> Figure | None:
    """Return the effect of removing a head at each step at which it was measured."""
    for score in shared.scores:
        values = score.of(head.layer, head.head)
        if values is None or not shared.is_effect(head, score):
            continue
        line = stored_line(head.name, values, score.group, score.variable, role=head.role)
        y = y_axis(in_words(score.variable), score.unit)
        spec = {**lines(step_axis(score.steps), y, [line]), "kind": "stems"}
        return _figure(
            shared, head, score, "effect", "Effect of removing it", score.definition, spec
        )
    return None


def other_figures(shared: RunHeads, head: Head) -> Iterator[tuple[bool, Figure]]:
    """Yield a figure for the numbers that share their steps, but for those drawn above.

    Effects of removing the head, which are losses, have figures of their own: True with those.
    """
    together: dict[tuple[bool, bytes], list[Score]] = {}
    for score in shared.scores:
        if not shared.is_main(head, score) and not shared.is_effect(head, score):
            is_effect = _measure(score) == _ABLATION
            together.setdefault((is_effect, score.steps.tobytes()), []).append(score)
    taken: set[str] = set()
    for i, ((is_effect, _), of) in enumerate(together.items()):
        panels = [panel for score in of if (panel := _panel(shared, score, head))]
        if panels:
            title = _title(of, taken)
            taken.add(title)
            yield is_effect, _figure(
                shared, head, of[0], f"others-{i + 1}", title, _said_of_null(shared, of, head),
                strips(step_axis(of[0].steps), panels),
            )  # fmt: skip


def _title(of: Sequence[Score], taken: set[str]) -> str:
    """Return a title that no other figure of the page has."""
    effect = _measure(of[0]) == _ABLATION
    title = "Effect on the loss over training" if effect else "Other scores over training"
    if title in taken and not effect:
        named = listed(list(dict.fromkeys(in_words(_measure(one)) for one in of)))
        title = f"{named.capitalize()} over training"
    return f"{title}, at {len(of[0].steps):,} checkpoints" if title in taken else title


def _measure(score: Score) -> str:
    return score.group.partition(".")[0]


def _panel(shared: RunHeads, score: Score, head: Head) -> Json | None:
    values = score.of(head.layer, head.head)
    if values is None or not np.isfinite(values).any():
        return None
    own = stored_line("score", values, score.group, score.variable, role=role_of(score.variable),
                      emphasis=True)  # fmt: skip
    domain = score.limits if score.limits == (0.0, 1.0) else None
    y = y_axis(score.title, score.unit, domain)
    null, rules = _null_and_rule(shared, score, head)
    return {"kind": "lines", "y": y, "series": [*null, own], "rules": rules}
