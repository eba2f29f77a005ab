"""Small lines within a table: at most 60 points by the minima and maxima of their parts."""

import numpy as np
from jaxtyping import Float, Int, Real
from markupsafe import Markup

WIDTH, HEIGHT, PARTS = 120, 22, 30
NOTE = (
    f"Small lines show the lowest and the highest value of each of {PARTS} parts of the "
    "checkpoints, so that no spike is lost."
)


def extremes(values: Real[np.ndarray, " step"], parts: int = PARTS) -> Int[np.ndarray, " kept"]:
    """Return indices, ascending, of the lowest and the highest value of each part.

    Parts are of equal numbers of checkpoints, and values that are not finite do not count. All
    indices where there are at most two in each part.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) <= 2 * parts:
        return known
    split = np.array_split(known, parts)
    kept = [one[place] for one in split for place in (values[one].argmin(), values[one].argmax())]
    return np.unique([known[0], *kept, known[-1]])


def thumbnail(
    values: Float[np.ndarray, " step"], low: float, high: float, role: str, label: str
) -> Markup:
    """Return a line from the first checkpoint to the last as SVG. low, high: of its axis."""
    kept = extremes(values)
    if len(kept) < 2:
        return Markup("")
    span = high - low if high > low else 1.0
    x = kept / (len(values) - 1) * WIDTH
    y = (1 - np.clip((values[kept] - low) / span, 0, 1)) * (HEIGHT - 2) + 1
    points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return Markup(
        '<svg class="thumbnail" role="img" aria-label="{}" width="{}" height="{}">'
        '<polyline style="fill:none;stroke:var(--role-{})" points="{}"/></svg>'
    ).format(label, WIDTH, HEIGHT, role, points)
