"""The parts that the pages of one run share: groups, saved steps, findings."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import dask.config
import numpy as np
import xarray as xr

from pipeline.aggregate.vestigial import vestigial
from pipeline.errors import InputError
from pipeline.findings.heads import heads_of
from pipeline.findings.number_format import amount, counted, in_words, listed, why_undefined
from pipeline.findings.sentences import by_measure, findings_of
from pipeline.measures.head_patterns import NULLS, excess_of
from pipeline.query import aggregates, open_run
from pipeline.report.downsample import RULE
from pipeline.report.site.specs import step_axis
from pipeline.store import OldLayoutError, Store

T = TypeVar("T")

MOST_LOSSES = 2**26  # stored losses beyond which those of tokens are left to `ontogeny losses`
_VESTIGIAL = 1  # version of what is stored about vestigial heads
_SHORT_RUN = 10_000  # steps up to which a linear axis is readable


@dataclass
class Run:
    """A run and its store. name: among the runs of the site. slug: of its folder.

    left_out: the reason for each thing that pages do not show, by its name ("group/variable" for
    what is stored); pages add to it while they are made. answers: what `once` has computed.
    """

    name: str
    slug: str
    uri: str
    tree: xr.DataTree
    left_out: dict[str, str] = field(default_factory=dict)
    answers: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)

    @cached_property
    def groups(self) -> dict[str, dict[str, xr.Dataset]]:
        """Return the groups, by measure and then by name."""
        return by_measure(self.tree)

    @cached_property
    def steps(self) -> list[int]:
        """Return the steps at which any group has a row, ascending."""
        each = [group["step"].values for of in self.groups.values() for group in of.values()]
        return sorted({int(step) for steps in each for step in steps})

    @cached_property
    def findings(self) -> list[str]:
        """Return the sentences about the run, most important first."""
        return findings_of(self.tree)

    @cached_property
    def verdict(self) -> Mapping[str, Any] | None:
        """Return what the audit of the checkpoints found; None where it is not stored."""
        try:
            return Store(self.uri).snapshot().version.verdict
        except OldLayoutError:
            return None

    @property
    def step_scale(self) -> str:
        """Return the initial scale of step axes, which the reader can switch.

        Logarithmic for long runs, except in grokking, whose phases are of similar length.
        """
        if "modular_addition" in self.groups or not self.steps or self.steps[-1] <= _SHORT_RUN:
            return "linear"
        return "log"

    def once(self, compute: "Callable[[Run], T]") -> T:
        """Return what a function says about the run, computed at its first use only."""
        if compute not in self.answers:
            self.answers[compute] = compute(self)
        return self.answers[compute]

    def first(self, measure: str) -> tuple[str, xr.Dataset] | None:
        """Return name and rows of a measure's first group: on its default input, if that exists."""
        return next(iter(self.groups.get(measure, {}).items()), None)

    def summary(self) -> str:
        """Return what was analysed, in a line."""
        if not self.steps:
            return "no checkpoint yet"
        parts = [counted(len(self.steps), "checkpoint"), _range(self.steps)]
        tokens = self.tokens
        if tokens is not None:
            parts.append(f"{amount(tokens)} tokens")
        return " · ".join(parts)

    @cached_property
    def tokens(self) -> float | None:
        """Return the most tokens that any checkpoint has seen; None where that is unknown."""
        each = [g["tokens_seen"].values for of in self.groups.values() for g in of.values()
                if "tokens_seen" in g.coords]  # fmt: skip
        seen = np.concatenate([np.asarray(one, dtype=float) for one in each] or [np.zeros(0)])
        known = seen[np.isfinite(seen)]
        return float(known.max()) if known.size and known.max() > 0 else None

    def vestigial(self, group: str) -> xr.Dataset:
        """Return which heads rose and fell again, in a group of head scores.

        Of the series that formed: those that exceed their null by the threshold of the labels at
        some step.
        """
        threshold = heads_of(self.groups, group).threshold
        return aggregates.stored_result(
            self.uri, "vestigial", _VESTIGIAL, {"draws": 199, "threshold": threshold}, [group],
            lambda run: vestigial(_formed(run, group, threshold), draws=199),
        )  # fmt: skip

    def losses(self, compute: Callable[[str, str], T], name: str) -> T | None:
        """Return a stored answer about the losses of tokens, or None with the reason in left_out.

        compute: of `pipeline.query`, given the store and the group.
        """
        found = self.first("token_loss")
        if found is None or "loss" not in found[1]:
            return None
        if found[1]["loss"].size > MOST_LOSSES:
            self.leave_out(name, "too many losses; see the command ontogeny losses")
            return None
        try:
            # One block of tokens at a time: threads would hold several.
            with dask.config.set(scheduler="synchronous"):
                return compute(self.uri, found[0])
        except InputError as error:
            self.leave_out(name, str(error).removeprefix(f"{self.uri}: "))
            return None

    def leave_out(self, name: str, reason: str) -> None:
        """Note that something is not shown; of stored variables, why they are undefined."""
        group, _, variable = name.rpartition("/")
        dataset = self.groups.get(group.partition(".")[0], {}).get(group)
        if dataset is not None and variable in dataset and reason.startswith("undefined"):
            reason = why_undefined(dataset, variable) or reason
        self.left_out.setdefault(name, reason)

    def says_something(self, group: str, name: str) -> bool:
        """Return whether a variable has two different finite numbers; note in left_out if not.

        One number is enough where only one checkpoint has any.
        """
        rows = self.groups[group.partition(".")[0]][group]
        values = rows[name].values if name in rows else np.zeros(0)
        known = values[np.isfinite(values)] if values.dtype.kind in "fiu" else np.zeros(0)
        alone = known.size == 1 or rows.sizes["step"] == 1
        if known.size and (alone or known.min() < known.max()):
            return True
        reason = "constant" if known.size else "undefined" if name in rows else "not stored"
        self.leave_out(f"{group}/{name}", reason)
        return False

    def said_drawn(self, drawn: int, stored: int) -> str:
        """Return at how many of the run's checkpoints a figure draws numbers; "" for all.

        stored: the checkpoints that have the numbers, of which some may be left out.
        """
        if drawn == len(self.steps):
            return ""
        rule = f", {RULE}" if drawn < stored else ""
        return f"drawn at {drawn:,} of {len(self.steps):,} checkpoints{rule}"

    def said_left_out(self) -> str:
        """Return what is not shown, each with its reason, as one line; "" for nothing."""
        together: dict[tuple[str, str], list[str]] = {}
        for name, reason in self.left_out.items():
            group, _, variable = name.rpartition("/")
            together.setdefault((group, reason), []).append(in_words(variable))
        return "; ".join(
            f"{listed(names, len(names))}{_of_group(group)} ({_in_plain_words(reason)})"
            for (group, reason), names in together.items()
        )


def _of_group(group: str) -> str:
    """Return " of head scores on input text" for the group "head_scores.text"; "" without one."""
    measure, _, given = group.partition(".")
    return (f" of {in_words(measure)}" if measure else "") + (f" on input {given}" if given else "")


def _in_plain_words(reason: str) -> str:
    """Return a reason with the names of variables and parameters as words."""
    return re.sub(r"`(\w+)`", lambda name: in_words(name[1]), reason)


def _formed(run: xr.DataTree, group: str, threshold: float) -> xr.DataTree:
    """Return a group of head scores with NaN for what never exceeds its null by the threshold."""
    scores = run[group].to_dataset().load()
    for name in [one for one in NULLS if one in scores]:
        excess = excess_of(scores, name)
        if excess is not None:
            scores[name] = scores[name].where((excess >= threshold).any("step"))
    return xr.DataTree.from_dict({group: scores})


def axis_of(values: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Return the axis of the steps of a group."""
    return step_axis(values["step"].values)


def with_numbers(values: xr.DataArray) -> xr.DataArray:
    """Return a variable at the steps at which it has a finite number."""
    finite = np.isfinite(values.transpose("step", ...).values)
    return values.isel(step=np.flatnonzero(finite.any(axis=tuple(range(1, finite.ndim)))))


def opened(uris: Mapping[str, str]) -> list[Run]:
    """Return the runs of some stores, by name. Raises InputError where there is no store."""
    taken: set[str] = set()
    runs = []
    for name, uri in uris.items():
        slug = _slug(name, taken)
        taken.add(slug)
        runs.append(Run(name, slug, uri, open_run(uri)))
    return runs


def _slug(name: str, taken: set[str]) -> str:
    """Return a name for a folder and an address: a to z, digits and hyphens.

    In lower case, and with a number where another run has it, since some file systems ignore case.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "run"
    plain = f"run-{plain}" if plain in ("assets", "data") else plain
    made, count = plain, 2
    while made in taken:
        made, count = f"{plain}-{count}", count + 1
    return made


def _range(steps: list[int]) -> str:
    one = len(steps) == 1
    return f"step {steps[0]:,}" if one else f"steps {steps[0]:,} to {steps[-1]:,}"
