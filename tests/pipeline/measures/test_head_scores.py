"""The five scores against sums over explicit attention matrices."""

import numpy as np
import pytest
import torch

from pipeline.config import RepeatedInput
from pipeline.engine.record import AttentionRequest, KeyMap, KeyPosition, Lag, Record
from pipeline.errors import InputError
from pipeline.inputs import Input, make_input
from pipeline.measures.base import Setting
from pipeline.measures.copying import Copying
from pipeline.measures.head_scores import HeadScores
from pipeline.models.loading import Resident
from tests.pipeline.measures.measuring import measured

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
    """What a request yields, read off the explicit matrices entry by entry."""
    length = attention.shape[-1]
    found = np.full(attention.shape[:-1], np.nan)
    for s in range(SEQUENCES):
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
    """The definitions, by comparing tokens: knows nothing of lags or of blocks at fixed places."""
    start = int(made.attributes["has_bos"])
    sums = {name: np.zeros((LAYERS, HEADS)) for name in HeadScores.model_fields} | {
        variable.name: np.zeros((LAYERS, HEADS)) for variable in HeadScores.variables
    }
    first = later = 0
    for s, tokens in enumerate(made.tokens):
        for i in range(start, len(tokens)):
            p = attention[:, s, :, i]
            earlier = [j for j in range(start, i) if tokens[j] == tokens[i]]
            if earlier:
                later += 1
                sums["duplicate_token"] += sum(p[..., j] for j in earlier)
                sums["induction"] += sum(p[..., j + 1] for j in earlier)
            elif i > start:
                first += 1
                sums["previous_token"] += p[..., i - 1]
                sums["current_token"] += p[..., i]
                sums["first_token"] += p[..., 0]
    repeated = ("duplicate_token", "induction")
    return {name: total / (later if name in repeated else first) for name, total in sums.items()}


@pytest.mark.parametrize("has_bos", [False, True])
@pytest.mark.parametrize("repeats", [2, 4])
def test_scores_are_sums_over_the_explicit_matrices(repeats: int, has_bos: bool) -> None:
    made = repeated_input(repeats, has_bos)
    attention = causal_attention(made.tokens.shape[1])
    requests = HeadScores().passes(_setting(made))[0].attention
    record = Record(made, attention={one: answered(one, attention) for one in requests})

    scores = HeadScores().compute((record,), {}, None)

    expected = brute_force(made, attention)
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, rtol=1e-12, err_msg=name)


def test_a_perfect_induction_head_scores_one_and_nothing_else_does() -> None:
    made = repeated_input(repeats=2, has_bos=True)
    length = made.tokens.shape[1]
    attention = np.zeros((LAYERS, SEQUENCES, HEADS, length, length))
    for i in range(length):
        # Before the repeat the head is off: it rests on BOS.
        attention[..., i, i - BLOCK + 1 if i > BLOCK else 0] = 1
    record = Record(
        made,
        attention={
            one: answered(one, attention)
            for one in HeadScores().passes(_setting(made))[0].attention
        },
    )

    scores = HeadScores().compute((record,), {}, None)

    assert (scores["induction"] == 1).all()
    assert (scores["first_token"] == 1).all()
    for name in ("previous_token", "current_token", "duplicate_token"):
        assert (scores[name] == 0).all(), name


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
        HeadScores().check(_setting(text))


def _setting(made: Input) -> Setting:
    from pipeline.models.loading import ModelFacts

    return Setting(ModelFacts(LAYERS, HEADS, HEADS, 4, 12, 30, None, (), "test"), made)
