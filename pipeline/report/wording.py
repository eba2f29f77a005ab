"""How numbers, heads and lists are written, the same in sentences and figures."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr


def number(value: float) -> str:
    """Two decimals; below 1, two significant digits; from 100 on, none. "undefined" for NaN."""
    if math.isnan(value):
        return "undefined"
    size = abs(value)
    if size == 0 or math.isinf(value):
        text = f"{value:.0f}"
    elif size >= 1:
        text = f"{value:,.{0 if size >= 100 else 2}f}"
    elif size >= 0.001:
        text = f"{value:.{1 - math.floor(math.log10(size))}f}"
    else:
        text = f"{value:.1e}"
    return text.replace("-", "−")


def amount(count: float) -> str:
    """A large count, rounded: "8.2 million"."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"


def at_step(step: int) -> str:
    """ "step 1,024"."""
    return f"step {step:,}"


def head_name(layer: int, head: int) -> str:
    """Layer and head from 0, as the field writes them: L1H3."""
    return f"L{layer}H{head}"


def listed(items: Sequence[str], at_most: int = 6) -> str:
    """ "a, b and c"; of a longer list the first `at_most`, and how many more there are."""
    shown = list(items[:at_most])
    if len(items) > at_most:
        shown.append(f"{len(items) - at_most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def counted(count: int, noun: str) -> str:
    """ "1 head", "2 heads"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def in_words(name: str) -> str:
    """A variable's name as words: in_context_score is "in-context score"."""
    return name.replace("in_context", "in-context").replace("_", " ")


def extreme(series: xr.DataArray, which: Literal["lowest", "highest"]) -> tuple[int, float] | None:
    """Step and value of a series' "lowest" or "highest" value, NaN aside; None if all are NaN."""
    values = series.values.astype(np.float64)
    if np.isnan(values).all():
        return None
    i = int(np.nanargmin(values) if which == "lowest" else np.nanargmax(values))
    return int(series["step"].values[i]), float(values[i])
