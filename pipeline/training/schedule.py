"""Which steps are saved: densely at first, where most changes fast, then evenly."""

from pydantic import Field

from pipeline.config import Strict


class Schedule(Strict):
    """Log-then-linear, as Pythia's: 0, 1, 2, 4, … up to `log_until`, then the multiples of `every`.

    Biderman et al. 2023 (arXiv 2304.01373): 0, 1, 2, 4, … 512, then every 1,000 steps.
    """

    log_until: int = Field(default=512, ge=0)
    every: int = Field(default=1000, ge=1)

    def steps(self, last: int) -> list[int]:
        """The steps to save of a run of `last` optimizer steps, ascending; 0 and `last` always."""
        powers = [2**k for k in range(self.log_until.bit_length()) if 2**k <= last]
        multiples = range(0, last, self.every)
        even = [step for step in multiples if step > self.log_until]
        return sorted({0, *powers, *even, last})
