"""Two lines that meet, and a cubic, fitted to trajectories over their arc length."""

import numpy as np
from jaxtyping import Float, Integer

LEAST = 4  # checkpoints on each side of where lines meet

Walks = Float[np.ndarray, "walk checkpoint component"]


class TwoLines:
    """Two lines, at every place where they may meet, and a cubic, over one set of arc lengths."""

    def __init__(self, arc: Float[np.ndarray, " checkpoint"]) -> None:
        self.x = arc / arc[-1]
        self.places = np.arange(LEAST, len(arc) - LEAST)
        self.cubic = np.linalg.qr(np.vander(self.x, 4))[0].T[None]
        beyond = np.maximum(self.x[None] - self.x[self.places, None], 0)
        columns = np.stack([np.ones_like(beyond), np.broadcast_to(self.x, beyond.shape), beyond], 2)
        self.lines = np.linalg.qr(columns)[0].transpose(0, 2, 1)  # [place, term, checkpoint]

    def _columns(self, place: int) -> Float[np.ndarray, "checkpoint 3"]:
        x = self.x
        return np.stack([np.ones(len(x)), x, np.maximum(x - x[place], 0)], axis=1)

    def errors(
        self, walks: Walks
    ) -> tuple[Float[np.ndarray, " walk"], Float[np.ndarray, "walk place"]]:
        """Return the squared errors of the cubic and of the two lines at each place."""
        count, length, components = walks.shape
        centred = walks - walks.mean(axis=1, keepdims=True)
        total = (centred**2).sum(axis=(1, 2))
        # One product for all walks, components and places.
        columns = centred.transpose(1, 0, 2).reshape(length, -1)

        def explained(
            bases: Float[np.ndarray, "place term checkpoint"],
        ) -> Float[np.ndarray, "walk place"]:
            products = bases.reshape(-1, length) @ columns
            return (products**2).reshape(len(bases), -1, count, components).sum(axis=(1, 3)).T

        # Rounding must not make the error of a perfect fit 0.
        floor = 1e-12 * total[:, None]
        smooth = np.maximum(total[:, None] - explained(self.cubic), floor)
        return smooth[:, 0], np.maximum(total[:, None] - explained(self.lines), floor)

    def statistics(
        self, walks: Walks
    ) -> tuple[Float[np.ndarray, " walk"], Integer[np.ndarray, " walk"]]:
        """Return the statistic of each walk, and the place of its corner."""
        smooth, lines = self.errors(walks)
        return np.log(smooth / lines.min(axis=1)), self.places[lines.argmin(axis=1)]

    def lines_at(
        self, points: Float[np.ndarray, "checkpoint component"], place: int
    ) -> tuple[float, Float[np.ndarray, "checkpoint component"]]:
        """Return the angle between the two lines in degrees, and the residuals."""
        columns = self._columns(place)
        found = np.linalg.lstsq(columns, points, rcond=None)[0]
        before, after = found[1], found[1] + found[2]
        lengths = np.linalg.norm(before) * np.linalg.norm(after)
        cosine = float(np.clip(before @ after / lengths, -1, 1)) if lengths else np.nan
        return float(np.degrees(np.arccos(cosine))), points - columns @ found
