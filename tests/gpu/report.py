"""The report of one part of the check on a GPU: a line of JSON for each figure, as it comes."""

import json
import math
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Value = float | int | str | bool

# Characters of a traceback that are reported: the end names the error.
LAST_CHARACTERS = 3000


class Report:
    """Prints the figures of one part.

    device: "cuda" or "cpu". small: take small shapes, for a CPU. out: a folder for files of the
    part. until: when the part's time is over, on the clock `time.monotonic`.
    """

    def __init__(self, part: str, device: str, small: bool, out: Path, until: float) -> None:
        self.part = part
        self.device = device
        self.small = small
        self.out = out
        self.failed = False
        self._until = until

    @property
    def seconds_left(self) -> float:
        """Return the seconds after which the part is ended."""
        return self._until - time.monotonic()

    def out_of_time(self, needed: float = 5.0) -> bool:
        """Tell whether fewer seconds are left than needed: name then with `skip` what remains."""
        return self.seconds_left < needed

    def attempt(self, what: str, work: Callable[[], None], needed: float = 5.0) -> None:
        """Run one of a part's checks, or skip it by name where fewer seconds are left than needed.

        An error fails the check and lets the part go on, unless CUDA's context is lost.
        """
        if self.out_of_time(needed):
            left = max(self.seconds_left, 0)
            self.skip(what, f"it needs {needed:.0f} s, and {left:.0f} s are left")
            return
        try:
            work()
        except Exception:
            self.fail(what, traceback.format_exc()[-LAST_CHARACTERS:])
            if self.device == "cuda":
                torch.cuda.synchronize()  # raises where the context is lost

    def figure(
        self,
        name: str,
        value: Value,
        unit: str = "",
        at_most: float | None = None,
        at_least: float | None = None,
        **labels: Any,
    ) -> None:
        """Print one figure. Without a limit it is for information, and cannot fail.

        NaN is outside of every limit. A bool that must be true takes `at_least=1`.
        """
        line: dict[str, Any] = {"name": name, "value": _plain(value), "unit": unit}
        limits = {"at_most": at_most, "at_least": at_least}
        line |= {limit: float(number) for limit, number in limits.items() if number is not None}
        line["holds"] = _holds(value, at_most, at_least)
        self.failed |= line["holds"] is False
        self._print(line | {"labels": {key: _plain(label) for key, label in labels.items()}})

    def skip(self, what: str, why: str) -> None:
        """Print that something was not checked. This does not fail the check."""
        self._print({"skipped": what, "why": why})

    def fail(self, what: str, why: str) -> None:
        """Print an error, which fails the check."""
        self.failed = True
        self._print({"failed": what, "why": why})

    def _print(self, line: dict[str, Any]) -> None:
        print(json.dumps({"part": self.part} | line, allow_nan=False), flush=True)


def _holds(value: Any, at_most: float | None, at_least: float | None) -> bool | None:
    if at_most is None and at_least is None:
        return None
    # Comparisons with NaN are false.
    return bool((at_most is None or value <= at_most) and (at_least is None or value >= at_least))


def _plain(value: Any) -> Any:
    """Return a value that JSON has: numbers of numpy and torch as Python's, others as text."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
