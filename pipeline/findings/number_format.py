"""Text for numbers, heads, steps and lists, the same in sentences and figures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr

_NEXT_NAMES = re.compile(r"; (?=\w+(?:, \w+)*: (?:(?:NaN|empty), because |NaN in layer))")
MOST_STEPS = 3  # non-finite steps that are listed; more are counted


def number(value: float) -> str:
    """Return a number with two decimals; two significant digits below 1, no decimals from 100 on.

    "NaN" for NaN.
    """
    if math.isnan(value):
        return "NaN"
    size = abs(value)
    if size == 0 or math.isinf(value):
        text = f"{value:.0f}"
    elif size >= 1:
        text = f"{value:,.{0 if size >= 100 else 2}f}"
    elif size >= 0.001:
        text = f"{value:.{1 - math.floor(math.log10(size))}f}"
    else:
        text = f"{value:.1e}"
    return text.replace("-", "−")  # a minus sign instead of a hyphen


def amount(count: float) -> str:
    """Return a large count, rounded: "8.2 million"."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"


def at_step(step: int) -> str:
    """Return a step as text: "step 1,024"."""
    return f"step {step:,}"


def listed(items: Sequence[str], at_most: int = 6) -> str:
    """Return "a, b and c"; of a longer list the first `at_most` and the number of others."""
    shown = list(items[:at_most])
    if len(items) > at_most:
        shown.append(f"{len(items) - at_most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 head", "2 heads"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def in_words(name: str) -> str:
    """Return a variable's name as words: in_context_score is "in-context score"."""
    return name.replace("in_context", "in-context").replace("_", " ")


def extreme(series: xr.DataArray, which: Literal["lowest", "highest"]) -> tuple[int, float] | None:
    """Return step and value of a series' "lowest" or "highest" finite value; None without any.

    Of equal values the first in order of the array.
    """
    # Not xarray's `idxmin`, which skips NaN but not infinities.
    values = series.values.astype(np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    if not finite.size:
        return None
    kept = values[finite]
    i = finite[int(kept.argmin() if which == "lowest" else kept.argmax())]
    return int(series["step"].values[i]), float(values[i])


def finite(series: xr.DataArray) -> xr.DataArray:
    """Return a series (dims: step) at the steps where it is finite: not NaN, not infinite."""
    return series.isel(step=np.flatnonzero(np.isfinite(series.values)))


def non_finite(series: xr.DataArray) -> str:
    """Return at which steps a series (dims: step, ascending) is not finite; "" for none.

    "not finite at step 1,500", "at steps 10 and 30", "from step 900 on", "at 7 of 30 steps, first
    at step 10", "at any step". `why_undefined` returns whether this is so by definition.
    """
    steps = series["step"].values
    bad = np.flatnonzero(~np.isfinite(series.values.astype(np.float64)))
    return f"not finite {at_steps(steps[bad], steps)}" if bad.size else ""


def gaps(series: xr.DataArray, subject: str = "it") -> str:
    """Return a clause to append on the steps where a series is not finite; "" for none."""
    found = non_finite(series)
    return f"; {subject} is {found}" if found else ""


def at_steps(some: Sequence[int] | np.ndarray, every: Sequence[int] | np.ndarray) -> str:
    """Return text for `some` of `every` saved step (both ascending, not empty)."""
    if len(some) == 1:
        return f"at {at_step(int(some[0]))}"
    if len(some) == len(every):
        return "at any step"
    # Both are ascending: this means that `some` is the end of `every`.
    if some[0] == every[-len(some)]:
        return f"from {at_step(int(some[0]))} on"
    if len(some) <= MOST_STEPS:
        return f"at steps {listed([f'{step:,}' for step in some])}"
    return f"at {len(some):,} of {len(every):,} steps, first at {at_step(int(some[0]))}"


def why_undefined(group: xr.Dataset, name: str) -> str:
    """Return the stored reason why a variable of a group is undefined; "" without one.

    The attribute `undefined` reads "a, b: NaN, because …; c: NaN, because …".
    """
    for said in _NEXT_NAMES.split(str(group.attrs.get("undefined") or "")):
        # That some layers have no heads is no reason for a variable to be undefined as a whole.
        if ": NaN in layer" in said:
            continue
        # A whole word, because one name may be part of another ("loss" of "repeated_loss").
        if re.search(rf"\b{re.escape(name)}\b", said):
            return said.partition("because ")[2] or said
    return ""


def is_undefined(group: xr.Dataset, name: str) -> bool:
    """Return whether a variable has no finite number, and a stored reason for that."""
    return bool(why_undefined(group, name)) and not np.isfinite(group[name].values).any()


def by_reason(masked: Mapping[int, str]) -> dict[str, str]:
    """Return text for the steps that were left out, by reason: "steps 10 and 1,500"."""
    steps: dict[str, list[int]] = {}
    for step, reason in sorted(masked.items()):
        steps.setdefault(reason, []).append(step)
    return {
        reason: f"{'step' if len(found) == 1 else 'steps'} {listed([f'{s:,}' for s in found], 20)}"
        for reason, found in steps.items()
    }
