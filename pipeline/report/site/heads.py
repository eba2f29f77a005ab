"""The heads of a run: label and rule, onset, ablation effect, and whether it is vestigial.

One threshold decides everywhere: that of the run's labels (see `pipeline.findings.heads`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from pipeline.aggregate.head_layers import in_layers_with_heads
from pipeline.findings.heads import Heads, Onset, counted_steps, heads_of, onsets
from pipeline.findings.number_format import in_words
from pipeline.findings.sentences import without_heads
from pipeline.measures.head_patterns import NULLS
from pipeline.models.head_names import head_name
from pipeline.report.site.run_data import Run
from pipeline.report.site.specs import role_of
from pipeline.report.site.stored_labels import Lowers, lowering, other_labels

HEAD = {"step", "layer", "head"}
# The patterns in the order in which a head with several is called after one of them.
PATTERNS = ("induction", "previous_token", "duplicate_token", "current_token", "first_token")


@dataclass(frozen=True)
class Effect:
    """The increase of a loss without a head, in nats, at a step."""

    group: str
    variable: str
    step: int
    value: float


@dataclass(frozen=True)
class Head:
    """One head. onsets: of the patterns that it has or had. pattern: the one it is called after.

    pattern: without a label, the one whose score exceeds its null most at the end; None without
    scores. score, null: of that pattern at the last step. before: by pattern, the last step with
    scores before the onset, None at the first one. unconfirmed: the patterns that begin at the last
    step with scores. lowers: the stored label that makes an induction head an anti-induction head.
    rises: the scores that rose and fell again, with their peaks. other_labels: the definitions of
    stored labels that are no pattern, by name.
    """

    layer: int
    head: int
    onsets: dict[str, Onset] = field(default_factory=dict)
    before: dict[str, int | None] = field(default_factory=dict)
    unconfirmed: frozenset[str] = frozenset()
    lowers: Lowers | None = None
    pattern: str | None = None
    score: float = float("nan")
    null: float = float("nan")
    effect: Effect | None = None
    rises: tuple[tuple[str, int, float], ...] = ()
    other_labels: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name in the usual notation: L1H3."""
        return head_name(self.layer, self.head)

    @property
    def href(self) -> str:
        """Return the file of its page."""
        return f"head-{self.name}.html"

    @property
    def label(self) -> str:
        """Return the labels that it has or had, in words; "no label" without."""
        named = [self.word(one) + self._remark(one) for one in self.onsets]
        return ", ".join([*named, *map(label_in_words, self.other_labels)]) or "no label"

    def word(self, pattern: str) -> str:
        """Return a pattern in words, by the stored label of a head that lowers what it attends."""
        lowers = pattern == "induction" and self.lowers is not None
        return label_in_words("anti_induction" if lowers else pattern)

    def _remark(self, pattern: str) -> str:
        if self.onsets[pattern].until is not None:
            return " (ended)"
        return " (last checkpoint only)" if pattern in self.unconfirmed else ""

    @property
    def onset(self) -> Onset | None:
        """Return the onset of the pattern that it is called after; None without a label."""
        return self.onsets.get(self.pattern or "")

    @property
    def role(self) -> str:
        """Return the colour role: that of the pattern it is called after, none without a label."""
        return role_of(self.pattern or "") if self.onsets else "none"


def label_in_words(name: str) -> str:
    """Return a label in words: anti_induction is "anti-induction"."""
    return in_words(name.replace("anti_", "anti-"))


def main_scores(run: Run) -> tuple[str, Heads] | None:
    """Return the group of head scores that labels heads: the first; None without heads in it."""
    found = run.first("head_scores")
    if found is None or without_heads(found[1]):
        return None
    return found[0], heads_of(run.groups, found[0])


def head_variables(run: Run) -> Iterator[tuple[str, str, xr.DataArray]]:
    """Yield group, name and values of every number over step, layer and head, without nulls.

    Layers without heads are left out.
    """
    for of_measure in run.groups.values():
        for group, dataset in of_measure.items():
            for name, values in dataset.data_vars.items():
                numbers = values.dtype.kind == "f" and str(name) not in NULLS.values()
                if set(values.dims) == HEAD and numbers:
                    there = in_layers_with_heads(values, dataset)
                    yield group, str(name), there.transpose("step", "layer", "head")


def heads_in(run: Run) -> list[Head]:
    """Return all heads of a run, by layer and head; none where no measure is of heads."""
    places = sorted(
        {
            (int(layer), int(head))
            for _, _, values in head_variables(run)
            for layer in values["layer"].values
            for head in values["head"].values
        }
    )
    found = main_scores(run)
    formed = {} if found is None else _formed(found[1])
    rises = {} if found is None else _rises(run, *found)
    counted = {} if found is None else {name: _counted(found[1], name) for name in PATTERNS}
    effects, others = _effects(run), other_labels(run, {*PATTERNS, "sink"})
    made = []
    for place in places:
        of = formed.get(place, {})
        pattern, score, null = _called(found[1] if found else None, place, of)
        before = {
            name: max((step for step in counted[name] if step < one.step), default=None)
            for name, one in of.items()
        }
        last = frozenset(name for name, one in of.items() if one.step == counted[name][-1])
        formed_here = of.get("induction")
        lowers = lowering(run, found[0], place, formed_here) if found and formed_here else None
        labels = {
            name: definition
            for name, definition in others.get(place, {}).items()
            if name != "anti_induction" or lowers is None
        }
        made.append(
            Head(*place, of, before, last, lowers, pattern, score, null, effects.get(place),
                 rises.get(place, ()), labels)
        )  # fmt: skip
    return made


def _counted(heads: Heads, pattern: str) -> list[int]:
    """Return the steps that count for the onsets of a pattern."""
    excess = heads.excess(pattern)
    if excess is None:
        return []
    return counted_steps(excess).dropna("step", how="all")["step"].values.tolist()


def _formed(heads: Heads) -> dict[tuple[int, int], dict[str, Onset]]:
    found: dict[tuple[int, int], dict[str, Onset]] = {}
    for pattern in PATTERNS:
        if pattern in heads.scores:
            for one in onsets(heads, pattern):
                found.setdefault((one.layer, one.head), {})[pattern] = one
    return found


def _called(
    heads: Heads | None, place: tuple[int, int], formed: dict[str, Onset]
) -> tuple[str | None, float, float]:
    """Return the pattern that a head is called after, with score and null at the last step."""
    if heads is None:
        return None, float("nan"), float("nan")
    ends = {name: _end(heads.scores, name, place) for name in PATTERNS if name in heads.scores}
    lasting = [name for name in formed if formed[name].until is None]
    chosen = lasting or list(formed) or list(ends)
    known = [name for name in chosen if np.isfinite(ends[name][0] - ends[name][1])]
    if known:
        best = max(known, key=lambda name: ends[name][0] - ends[name][1])
        return best, *ends[best]
    # Undefined at the last step: a head keeps the pattern that it has or had.
    return next(iter(lasting or formed), None), float("nan"), float("nan")


def _end(scores: xr.Dataset, pattern: str, place: tuple[int, int]) -> tuple[float, float]:
    """Return score and null of a head at the last step."""
    at = {"layer": place[0], "head": place[1]}
    values = []
    for name in (pattern, NULLS[pattern]):
        one = scores[name].isel(step=-1) if name in scores else None
        labels = {} if one is None else {dim: at[str(dim)] for dim in one.dims}
        values.append(float("nan") if one is None else float(one.sel(labels)))
    return values[0], values[1]


def _effects(run: Run) -> dict[tuple[int, int], Effect]:
    """Return the effects of ablation at the last step at which they were measured."""
    found: dict[tuple[int, int], Effect] = {}
    for group, dataset in run.groups.get("head_ablation", {}).items():
        stored = [dataset[name] for name in ("repeated_loss", "loss") if name in dataset]
        known = [one for one in (one.dropna("step", how="all") for one in stored) if one.size]
        for values in known[:1]:
            last = values.isel(step=-1).transpose("layer", "head")
            for i, j in np.argwhere(np.isfinite(last.values)).tolist():
                place = (int(last["layer"][i]), int(last["head"][j]))
                made = Effect(group, str(values.name), int(last["step"]), float(last[i, j]))
                found.setdefault(place, made)
    return found


def _rises(
    run: Run, group: str, heads: Heads
) -> dict[tuple[int, int], tuple[tuple[str, int, float], ...]]:
    """Return for each vestigial head the scores that rose, formed, and fell again."""
    table = run.vestigial(group)
    found: dict[tuple[int, int], tuple[tuple[str, int, float], ...]] = {}
    for i in np.flatnonzero((table["vestigial"].values == 1) & (table["formed"].values == 1)):
        one = table.isel(series=int(i))
        name = str(one["variable"].item())
        if name in heads.scores:
            place = (int(one["layer"]), int(one["head"]))
            rise = (name, int(one["peak_step"]), float(one["fallen_share"]))
            found[place] = (*found.get(place, ()), rise)
    return found
