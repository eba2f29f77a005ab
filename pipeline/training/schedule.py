"""The schedule of saved steps: dense at first, when most changes are fast, then even."""

from pydantic import Field

from pipeline.config import Strict


class Schedule(Strict):
    """A log-then-linear schedule: 0, 1, 2, 4, … up to `log_until`, then multiples of `every`.

    log_until: last power of two that is saved. every: distance of the steps after it.
    The defaults are Pythia's (Biderman et al. 2023, arXiv 2304.01373).
    """

    log_until: int = Field(default=512, ge=0)
    every: int = Field(default=1000, ge=1)

    def steps(self, last: int) -> list[int]:
        """Return the steps to save in a run of `last` steps, ascending; 0 and `last` always."""
        powers = [2**k for k in range(self.log_until.bit_length()) if 2**k <= last]
        multiples = range(0, last, self.every)
        even = [step for step in multiples if step > self.log_until]
        return sorted({0, *powers, *even, last})
