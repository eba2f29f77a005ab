"""The five scores and their nulls against sums over explicit attention matrices."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.engine.record import AttentionRequest, KeyMap, KeyPosition, Lag, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.copying import Copying
from pipeline.measures.head_scores import HeadScores
from pipeline.models.facts import ModelFacts
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import measured, of_record

LAYERS, HEADS, SEQUENCES, BLOCK = 2, 3, 4, 5


def repeated_input(repeats: int, has_bos: bool) -> Input:
    rng = np.random.default_rng(repeats)
    blocks = np.stack([rng.permutation(20)[:BLOCK] + 1 for _ in range(SEQUENCES)])
    tokens = np.tile(blocks, (1, repeats))
    if has_bos:
        tokens = np.concatenate([np.zeros((SEQUENCES, 1), np.int64), tokens], axis=1)
    attributes = {"block_length": BLOCK, "repeats": repeats, "has_bos": has_bos}
    return Input("repeated", "repeated", tokens, attributes=attributes)


def causal_attention(length: int) -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=(LAYERS, SEQUENCES, HEADS, length, length)) * 3
    scores[..., np.triu_indices(length, 1)[0], np.triu_indices(length, 1)[1]] = -np.inf
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True)


def answered(request: AttentionRequest, attention: np.ndarray) -> torch.Tensor:
    """Return the result of a request, from the explicit matrices entry by entry."""
    length = attention.shape[-1]
    found = np.full(attention.shape[:-1], np.nan)
    for s in range(attention.shape[1]):
        for i in range(length):
            match request:
                case Lag(lag):
                    j = i - lag
                case KeyPosition(position):
                    j = position if position <= i else -1
                case KeyMap():
                    j = int(request.index[s, i])
                case _:
                    raise TypeError(request)
            if j >= 0:
                found[:, s, :, i] = attention[:, s, :, i, j]
    return torch.from_numpy(found)


def brute_force(made: Input, attention: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the scores by comparing tokens, without lags or positions of blocks."""
    start = int(made.attributes["has_bos"])
    sums = {variable.name: np.zeros((LAYERS, HEADS)) for variable in HeadScores.variables}
    first = uniform = 0
    asked = list(queries(made))
    for s, i, earlier in asked:
        sums["duplicate_token"] += sum(attention[:, s, :, i, j] for j in earlier)
        sums["induction"] += sum(attention[:, s, :, i, j + 1] for j in earlier)
    given = null_distances(asked, start)
    for (s, i), distances in given.items():
        sums["duplicate_token_null"] += sum(attention[:, s, :, i, i - d] for d in distances)
        sums["induction_null"] += sum(attention[:, s, :, i, i - d + 1] for d in distances)
    for s, tokens in enumerate(made.tokens):
        for i in range(start + 1, len(tokens)):
            if len(set(tokens[start : i + 1])) < i + 1 - start:
                break
            p, first, uniform = attention[:, s, :, i], first + 1, uniform + 1 / (i + 1)
            sums["previous_token"] += p[..., i - 1]
            sums["current_token"] += p[..., i]
            sums["first_token"] += p[..., 0]
    counts = {"duplicate_token": len(asked), "induction": len(asked)}
    counts |= {f"{name}_null": len(given) for name in counts}
    scores = {
        name: total / counts.get(name, first) if counts.get(name, first) else total * np.nan
        for name, total in sums.items()
    }
    return scores | {"uniform_null": np.array(uniform / first)}


def queries(made: Input) -> Iterator[tuple[int, int, list[int]]]:
    """Yield each query of a later block, with the earlier positions of its token."""
    start, repeats = int(made.attributes["has_bos"]), made.attributes["repeats"]
    for s, tokens in enumerate(made.tokens.tolist()):
        n = len(set(tokens[start:]))
        for i in range(start + n, start + n * repeats):
            yield s, i, [j for j in range(start, i) if tokens[j] == tokens[i]]


def null_distances(
    asked: list[tuple[int, int, list[int]]], start: int
) -> dict[tuple[int, int], tuple[int, ...]]:
    """Return the distances of the null for queries in order: the least used set that fits."""
    owned = Counter(tuple(i - j for j in reversed(earlier)) for _, i, earlier in asked)
    given: Counter[tuple[int, ...]] = Counter()
    found = {}
    for s, i, earlier in sorted(asked, key=lambda query: query[1]):
        own = {i - j for j in earlier} | {i - j - 1 for j in earlier} | {0, 1}
        fits = [
            other
            for other in sorted(owned)
            if len(other) == len(earlier)
            and not {d - o for d in other for o in (0, 1)} & own
            and i - max(other) >= start
        ]
        if fits:
            found[s, i] = min(fits, key=lambda other: given[other] / owned[other])
            given[found[s, i]] += 1
    return found


def scored(made: Input, attention: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the measure on a record made from explicit matrices."""
    requests = HeadScores().passes(_setting(made))[0].attention
    record = Record(made, attention={one: answered(one, attention) for one in requests})
    return of_record(HeadScores(), record)


def varied(**options) -> Input:
    spec = RepeatedInput(**{"block_length": 7, "sequences": SEQUENCES, **options})
    facts = ModelFacts(LAYERS, HEADS, HEADS, 4, 12, 30, None, (), "test", 0, (0,))
    return make_input("repeated", spec, "", facts)


INPUTS = {
    f"{repeats} blocks, BOS {bos}, {what}": make(repeats, bos)
    for repeats in (2, 4)
    for bos in (False, True)
    for what, make in {
        "one length": lambda repeats, bos: repeated_input(repeats, bos),
        "lengths": lambda repeats, bos: varied(repeats=repeats, bos=bos),
        "shuffled": lambda repeats, bos: varied(repeats=repeats, bos=bos, shuffled=True),
        "shuffled, one length": lambda repeats, bos: varied(
            repeats=repeats, bos=bos, shuffled=True, vary=False
        ),
    }.items()
}


@pytest.mark.parametrize("made", INPUTS.values(), ids=INPUTS.keys())
def test_scores_and_nulls_are_sums_over_the_explicit_matrices(made: Input) -> None:
    attention = causal_attention(made.tokens.shape[1])
    scores, expected = scored(made, attention), brute_force(made, attention)
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, rtol=1e-12, err_msg=name)


def one_hot(made: Input, key_of) -> np.ndarray:
    """Return attention of heads that attend to one key only: key_of(sequence, query)."""
    length = made.tokens.shape[1]
    attention = np.zeros((LAYERS, len(made.tokens), HEADS, length, length))
    for s in range(len(made.tokens)):
        for i in range(length):
            attention[:, s, :, i, key_of(s, i)] = 1
    return attention


@pytest.mark.parametrize("options", [{"shuffled": False}, {"shuffled": True}])
def test_a_perfect_induction_head_scores_one_and_nothing_on_its_null(options) -> None:
    made = varied(**options, block_length=12)

    def successor(s: int, i: int) -> int:
        earlier = [j for j in range(1, i) if made.tokens[s, j] == made.tokens[s, i]]
        return earlier[-1] + 1 if earlier else 0  # else it is off, and rests on BOS

    scores = scored(made, one_hot(made, successor))
    assert (scores["induction"] == 1).all() and (scores["first_token"] == 1).all()
    assert (scores["induction_null"] == 0).all() and (scores["duplicate_token_null"] < 0.2).all()


@pytest.mark.parametrize("options", [{}, {"shuffled": True}, {"repeats": 3}])
def test_a_head_of_a_fixed_distance_scores_as_on_its_null(options) -> None:
    made = varied(**{"block_length": 25, "sequences": 32, **options})
    excess, scores = [], []
    for lag in range(2, 26):
        found = scored(made, one_hot(made, lambda s, i, lag=lag: max(i - lag, 0)))
        for pattern in ("induction", "duplicate_token"):
            score, null = (found[name][0, 0] for name in (pattern, f"{pattern}_null"))
            excess.append(score - null)
            scores.append(score)
    assert max(scores) > 0.03
    assert np.abs(excess).max() < 0.05 and abs(np.mean(excess)) < 0.01


def test_where_all_blocks_have_one_length_there_is_no_null() -> None:
    made = varied(vary=False)
    scores = scored(made, one_hot(made, lambda s, i: max(i - 6, 0)))
    assert scores["induction"][0, 0] == 1
    assert np.isnan(scores["induction_null"]).all()
    assert np.isnan(scores["duplicate_token_null"]).all()
    assert "one length" in apply.why_undefined(HeadScores(), _setting(made))
    assert apply.why_undefined(HeadScores(), _setting(varied())) == ""


@pytest.mark.parametrize("options", [{"block_length": 6}, {"block_length": 25, "sequences": 2}])
def test_blocks_too_short_or_too_few_give_no_null(options) -> None:
    """A head that attends to the successors of the longest block would exceed one by over 0.3."""
    made = varied(**{"sequences": 32, **options})
    lag = options["block_length"] - 1
    scores = scored(made, one_hot(made, lambda s, i: max(i - lag, 0)))
    assert scores["induction"][0, 0] > 0.3
    assert np.isnan(scores["induction_null"]).all()
    assert "too short or too few" in HeadScores().why_undefined(_setting(made))


def test_a_nan_of_the_model_makes_the_scores_of_its_layer_nan() -> None:
    made = varied(block_length=12)
    attention = causal_attention(made.tokens.shape[1])
    s, i, _ = next(queries(made))
    attention[1, s, 2, i] = np.nan
    scores = scored(made, attention)
    for name in ("induction", "duplicate_token"):
        assert np.isnan(scores[name][1, 2]) and np.isfinite(scores[name]).sum() == 5


def test_hand_written_heads_score_one_and_copy_as_written(hand_built: Resident) -> None:
    """A previous-token head, an induction pair by K-composition, a copier, an anti-copier."""
    made = make_input("repeated", RepeatedInput(block_length=8), "", hand_built.facts)
    scores = measured(HeadScores(), hand_built, made)
    copying = measured(Copying(), hand_built, None)["ov_copying_centred"]
    found = [scores["previous_token"][0, 0], scores["induction"][1, 0], *copying[1]]
    np.testing.assert_allclose(found, [1, 1, 1, -1], rtol=1e-6)
    assert scores["induction"][0, 0] == scores["duplicate_token"][1, 0] == 0


def test_another_kind_of_input_is_refused() -> None:
    text = Input("text", "text", np.zeros((2, 8), np.int64))
    with pytest.raises(InputError, match="reads an input of kind 'repeated'"):
        apply.check(HeadScores(), _setting(text))


def _setting(made: Input) -> Setting:
    return Setting(ModelFacts(LAYERS, HEADS, HEADS, 4, 12, 30, None, (), "test"), made)
