"""Sentences that differ in the step alone are one line, and no step is lost."""

import random
import re

import pytest

from pipeline.analysis.grouped_reasons import grouped_by_reason, ranges
from pipeline.analysis.summary import Summary


def test_failures_of_one_reason_are_one_line() -> None:
    steps = range(100, 30_000, 100)
    failed = {
        step: f"step {step}: runs/a/step-{step:06d}/config.json has 3 layers, expected 2"
        for step in steps
    }
    assert len(failed) == 299
    failed[50] = "step 50: runs/a/step-000050 is gone"
    first, line = Summary("a.zarr", failed=failed).failures()
    assert first == failed[50]
    assert line == f"299 steps alike (100 to 29900 by 100), the first: {failed[100]}"


def test_only_the_step_makes_two_sentences_alike() -> None:
    layers = {step: f"step {step}: has {step} layers" for step in (1, 2)}
    assert grouped_by_reason(layers) == [*layers.values()]
    commits = {step: f"hf://o/n@{step:040x}: is damaged" for step in (1, 2)}
    assert len(grouped_by_reason(commits)) == 1
    masked = {step: f"step {step:,} is left out: it is damaged" for step in (1000, 10_000)}
    assert grouped_by_reason(masked) == [f"2 steps alike (1000, 10000), the first: {masked[1000]}"]
    # A number that begins or ends with the step is another one.
    longer = {1: "/run/step-11 is gone", 11: "/run/step-11 is gone"}
    assert len(grouped_by_reason(longer)) == 2


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([7], "7"),
        ([1, 2], "1, 2"),
        ([3, 1, 2], "1 to 3"),
        ([0, 1, 2, 4, 8, 16], "0 to 2, 4, 8, 16"),
        ([0, 100, 200, 300, 350], "0 to 300 by 100, 350"),
    ],
)
def test_ranges_in_words(steps: list[int], said: str) -> None:
    assert ranges(steps) == said


def test_ranges_hold_each_step_once() -> None:
    draw = random.Random(0)
    for _ in range(300):
        steps = sorted(draw.sample(range(60), draw.randrange(1, 18)))
        found = []
        for part in ranges(steps).split(", "):
            first, last, by = re.fullmatch(r"(\d+)(?: to (\d+)(?: by (\d+))?)?", part).groups()  # pyright: ignore
            found += range(int(first), int(last or first) + 1, int(by or 1))
        assert found == steps


def test_a_long_list_of_ranges_is_cut() -> None:
    assert ranges([2**n for n in range(30)]).endswith("524288, and 10 more")
