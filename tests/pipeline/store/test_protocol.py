"""The protocol by which processes share a store, tried in a model: whoever is stopped, for however
long, and whoever is killed, nothing is lost or damaged; without any one of its rules, something is.

`ONTOGENY_PROTOCOL_SCHEDULES` says how many schedules to draw at random (`-s` prints the counts).
"""

import os
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, islice

import pytest

from tests.pipeline.store.protocol import (
    Rules,
    Schedule,
    at_random,
    one_stop,
    search,
    two_stops,
)

DRAWN = int(os.environ.get("ONTOGENY_PROTOCOL_SCHEDULES", "600"))
SEED = 1

SCHEDULES = {
    "one stop": lambda: chain(one_stop(runs=1), one_stop(runs=0, stopped=["analysis"])),
    "two stops": lambda: islice(two_stops(SEED), DRAWN),
    "at random": lambda: islice(at_random(SEED), DRAWN),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_nothing_is_lost_or_damaged(kind: str):
    found = search(Rules(), SCHEDULES[kind]())
    print(f"\n{kind}: {found}")
    assert found.tried >= DRAWN
    assert found.bad == {}, found


@pytest.mark.parametrize("rule", [field.name for field in fields(Rules)])
def test_each_rule_is_needed(rule: str):
    found = search(Rules(**{rule: False}), _an_analysis_is_stopped())
    print(f"\nwithout {rule}: {found}")
    assert sum(found.bad.values()) > 0


def test_the_same_search_finds_nothing_where_all_rules_are_kept():
    assert search(Rules(), _an_analysis_is_stopped()).bad == {}


def _an_analysis_is_stopped() -> Iterator[Schedule]:
    return one_stop(runs=0, stopped=["analysis"])
