"""Facts about the tokens of an input, without a model: frequency, repetition, bigrams."""

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int, Integer

from pipeline.aggregate.variables import variable

REPETITION = ("new token", "repeated token", "repeated pair")
SMOOTHING = 100.0  # as of the measure `bigrams`


def token_features(
    tokens: Int[np.ndarray, "sequence token"],
    vocabulary: int | None = None,
    corpus: Int[np.ndarray, "corpus_sequence corpus_token"] | None = None,
    smoothing: float = SMOOTHING,
) -> xr.Dataset:
    """Return for each predicted token its frequency, its repetition and its loss under bigrams.

    tokens: of an input, as the store keeps them. vocabulary: number of ids, else the largest id
    that occurs, plus 1. corpus: another text in which tokens and pairs are counted (never the one
    that is predicted). Without one they are counted in the input itself, leaving out the sequence
    of the predicted token, so that no prediction is tested on its own counts. With counts n, V ids
    and `smoothing` s, as in the measure `bigrams`,

        q(y) = (n(y) + 1) / (n + V),    q(y | x) = (n(x, y) + s q(y)) / (n(x) + s)

    where n(x) counts x as the first token of a pair. Position t is the prediction of token t+1.
    """
    tokens = np.asarray(tokens, dtype=np.int64)
    largest = max(int(tokens.max()), -1 if corpus is None else int(np.max(corpus)))
    size = vocabulary or largest + 1
    last, following = tokens[:, :-1], tokens[:, 1:]
    if corpus is None:
        counts = _leaving_out_own(tokens, size)
    else:
        counts = _in_corpus(tokens, np.asarray(corpus, dtype=np.int64), size)
    unigram = (counts["token"] + 1) / (counts["all"] + size)
    bigram = (counts["pair"] + smoothing * unigram) / (counts["first"] + smoothing)
    dims = ("sequence", "position")
    return xr.Dataset(
        {
            "log_frequency": variable(
                dims, np.log(unigram), "nats", "Log share of the predicted token in the corpus."
            ),
            "bigram_loss": variable(
                dims, -np.log(bigram), "nats",
                "Loss of predicting the token from the one before it by smoothed bigrams.",
            ),
            "repetition": variable(
                dims, _repetition(last, following), "1",
                "0: the token is new in its sequence; 1: it occurred before; 2: so did its pair "
                "with the token before it.",
            ),
        },
        {dim: np.arange(length) for dim, length in zip(dims, last.shape, strict=True)},
        {"counted_in": "the input, without the own sequence" if corpus is None else "a corpus"},
    )  # fmt: skip


def _repetition(
    last: Integer[np.ndarray, "sequence position"],
    following: Integer[np.ndarray, "sequence position"],
) -> Int[np.ndarray, "sequence position"]:
    """Return 0 for a new token, 1 for one that occurred before, 2 for a pair that did."""
    found = np.zeros(last.shape, dtype=np.int64)
    pairs = last * (int(following.max()) + 1) + following
    for row in range(len(last)):
        # The first token is in the context too, though it is never predicted.
        whole = np.concatenate([last[row, :1], following[row]])
        found[row] = np.where(_seen(pairs[row]), 2, _seen(whole)[1:])
    return found


def _seen(values: Integer[np.ndarray, " position"]) -> Bool[np.ndarray, " position"]:
    """Return where a value occurred before."""
    seen = np.ones(len(values), dtype=bool)
    seen[np.unique(values, return_index=True)[1]] = False
    return seen


def _in_corpus(
    tokens: Int[np.ndarray, "sequence token"],
    corpus: Int[np.ndarray, "other other_token"],
    size: int,
) -> dict[str, np.ndarray | int]:
    """Return how often a corpus has each predicted token, its pair, and the pair's first token."""
    last, following = tokens[:, :-1], tokens[:, 1:]
    pairs, counts = np.unique(corpus[:, :-1] * size + corpus[:, 1:], return_counts=True)
    return {
        "token": np.bincount(corpus.ravel(), minlength=size)[following],
        "pair": _looked_up(pairs, counts, last * size + following),
        "first": np.bincount(corpus[:, :-1].ravel(), minlength=size)[last],
        "all": corpus.size,
    }


def _leaving_out_own(
    tokens: Int[np.ndarray, "sequence token"], size: int
) -> dict[str, np.ndarray | int]:
    """Return the same counts in all sequences but the one of the predicted token."""
    everywhere = _in_corpus(tokens, tokens, size)
    own = [_in_corpus(row[None], row[None], size) for row in tokens]
    left = {
        name: everywhere[name] - np.concatenate([one[name] for one in own])
        for name in ("token", "pair", "first")
    }
    return {**left, "all": tokens.size - tokens.shape[1]}


def _looked_up(
    keys: Integer[np.ndarray, " key"],
    counts: Integer[np.ndarray, " key"],
    wanted: Integer[np.ndarray, "sequence position"],
) -> Integer[np.ndarray, "sequence position"]:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, counts[at], 0)
