"""Attention to the last full stop, from explicit matrices by searching the tokens."""

import numpy as np
import pytest
import torch

from pipeline.engine.record import KeyMap, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.full_stop import FullStop
from tests.pipeline.measures.measuring import FACTS, of_record

STOPS = (3, 7)


def text(**attributes) -> Input:
    tokens = np.random.default_rng(0).integers(0, 10, (5, 24))
    tokens[2] = 9  # a sequence without any full stop
    return Input("text", "text", tokens, attributes=attributes)


def compute(measure: FullStop, made: Input, attention: np.ndarray) -> dict[str, np.ndarray]:
    (wanted,) = measure.passes(Setting(FACTS, made))
    answers = {}
    for request in wanted.attention:
        assert isinstance(request, KeyMap)
        found = np.full(attention.shape[:-1], np.nan)
        for s, i in zip(*np.nonzero(request.index >= 0), strict=True):
            found[:, s, :, i] = attention[:, s, :, i, request.index[s, i]]
        answers[request] = torch.from_numpy(found)
    return of_record(measure, Record(made, attention=answers))


def test_means_are_over_all_queries_after_a_full_stop():
    made = text(full_stop_ids=list(STOPS))
    attention = np.random.default_rng(1).random((2, 5, 3, 24, 24))
    found = compute(FullStop(), made, attention)
    most_recent, null = [], []
    for s, row in enumerate(made.tokens):
        following = made.tokens[(s + 1) % 5]
        for i in range(24):
            stops = [j for j in range(i) if row[j] in STOPS]
            theirs = [j for j in range(i) if following[j] in STOPS]
            if stops:
                most_recent.append(attention[:, s, :, i, stops[-1]])
            if theirs and row[theirs[-1]] not in STOPS:
                null.append(attention[:, s, :, i, theirs[-1]])
    # nanmean over sequences and queries at once: every query counts alike
    np.testing.assert_allclose(found["most_recent"], np.mean(most_recent, axis=0))
    np.testing.assert_allclose(found["null"], np.mean(null, axis=0))


def test_a_head_on_full_stops_scores_one_and_none_by_chance():
    made = text(full_stop_ids=list(STOPS))
    attention = np.zeros((2, 5, 3, 24, 24))
    for s, row in enumerate(made.tokens):
        for i in range(24):
            stops = [j for j in range(i) if row[j] in STOPS]
            attention[:, s, :, i, stops[-1] if stops else i] = 1
    found = compute(FullStop(), made, attention)
    assert (found["most_recent"] == 1).all() and (found["null"] == 0).all()


def test_ids_can_be_given_for_inputs_that_do_not_say():
    made = text()
    attention = np.random.default_rng(1).random((2, 5, 3, 24, 24))
    given = compute(FullStop(token_ids=STOPS), made, attention)
    known = compute(FullStop(), text(full_stop_ids=list(STOPS)), attention)
    np.testing.assert_array_equal(given["most_recent"], known["most_recent"])
    with pytest.raises(InputError, match="give `token_ids`"):
        apply.check(FullStop(), Setting(FACTS, made))


def test_nan_of_the_model_is_not_taken_for_a_query_without_a_full_stop():
    made = text(full_stop_ids=list(STOPS))
    attention = np.random.default_rng(1).random((2, 5, 3, 24, 24))
    attention[0, 1, 2, 20] = np.nan  # one query that has a full stop before it
    found = compute(FullStop(), made, attention)
    expected = np.zeros((2, 3), dtype=bool)
    expected[0, 2] = True
    np.testing.assert_array_equal(np.isnan(found["most_recent"]), expected)
