"""The blocks of a repeated-token input, and the keys that scores and nulls request."""

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.engine.record import AttentionRequest, KeyMap, KeyPosition, Lag
from pipeline.inputs import Input
from pipeline.inputs.natural_matches import previous_occurrence

# Inputs may have thousands of sets of distances between a query and its matches, and each query is
# compared with each candidate: of more sets than this, an evenly spaced sample is tried.
_MOST_CANDIDATES = 256

# The most by which the score of a head that attends a fixed distance back may exceed its null. It
# is exceeded with short or few blocks, in which few queries have room for the distances of others.
_MOST_BY_DISTANCE = 0.25

Keys = Int[np.ndarray, "occurrence sequence query"]


class Blocks:
    """The queries of a repeated-token input, with the keys that scores and nulls request.

    Matches are found by comparing tokens, so that they are right whether the later blocks are in
    the order of the first or shuffled. Use `blocks_of`, which caches the result for each input.
    """

    def __init__(self, made: Input) -> None:
        self.input = made
        self.start = int(made.attributes["has_bos"])
        self.repeats = int(made.attributes["repeats"])
        longest = int(made.attributes["block_length"])
        same = np.full(len(made.tokens), longest)
        self.lengths: Int[np.ndarray, " sequence"] = made.arrays.get("block_length", same)

    @cached_property
    def first_block(self) -> Bool[np.ndarray, "sequence query"]:
        """The queries of the first block, from its second token on."""
        place = self._places
        return (place >= 1) & (place < self.lengths[:, None])

    @cached_property
    def later_blocks(self) -> Bool[np.ndarray, "sequence query"]:
        """The queries of the second and later blocks, up to the last whole one."""
        place, n = self._places, self.lengths[:, None]
        return (place >= n) & (place < n * self.repeats)

    @cached_property
    def repeated(self) -> Bool[np.ndarray, "sequence query"]:
        """All queries after the first block: those of later blocks, and of a cut-off last one."""
        return self._places >= self.lengths[:, None]

    @cached_property
    def matches(self) -> "KeyRequests":
        """All earlier occurrences of each later query's token, and the tokens after them."""
        occurrences = _earlier_occurrences(self.input.tokens, self.start)
        return KeyRequests.of(np.where(self.later_blocks, occurrences, -1))

    @cached_property
    def null(self) -> "KeyRequests":
        """Keys that match nothing, at the distances of other queries' matches.

        Each query gets the distances of another query with as many matches: a set of distances at
        which it has keys, none of them its match, a match's successor, itself or the token before.
        Of the sets that fit, it gets the one that has been used least so far, relative to the
        number of queries that own it, so that every distance is requested about as often as in the
        scores. A query that no set fits has no key in the null. If, as a result, some distance is
        requested much less often than matches have it (`_MOST_BY_DISTANCE`), no query has a key in
        the null: a head that attends that far back would exceed it.
        """
        matches = self.matches
        null = KeyRequests.of(_null_keys(matches.keys, self.start))
        by_distance = matches.share_by_distance - null.share_by_distance
        return null if by_distance.max() <= _MOST_BY_DISTANCE else KeyRequests.of(null.keys[:0])

    @property
    def requests(self) -> tuple[AttentionRequest, ...]:
        """All attention that the scores and their nulls need."""
        asked = (self.matches, self.null)
        maps = [of for one in asked for of in (*one.occurrences, *one.successors)]
        return (Lag(0), Lag(1), KeyPosition(0), *maps)

    @property
    def uniform(self) -> float:
        """Uniform attention to one key: the mean of 1 / (i + 1) over the first block's queries."""
        return float((1 / (np.nonzero(self.first_block)[1] + 1)).mean())

    @property
    def _places(self) -> Int[np.ndarray, "1 query"]:
        """Positions counted from the first token after BOS."""
        return np.arange(self.input.tokens.shape[1])[None] - self.start


class KeyRequests(NamedTuple):
    """The keys of each query, and the keys right after them, with one request per occurrence.

    keys: the most recent first; -1 where there is none.
    """

    keys: Keys
    occurrences: tuple[KeyMap, ...]
    successors: tuple[KeyMap, ...]

    @classmethod
    def of(cls, keys: Keys) -> "KeyRequests":
        """Return the requests for these keys and the ones after them."""
        keys = keys[(keys >= 0).any(axis=(1, 2))]  # each occurrence costs a request
        after = np.where(keys >= 0, keys + 1, -1)
        return cls(keys, tuple(map(KeyMap, keys)), tuple(map(KeyMap, after)))

    @property
    def queries(self) -> Bool[np.ndarray, "sequence query"]:
        """The queries that have a key."""
        return np.asarray((self.keys >= 0).any(axis=0))

    @property
    def share_by_distance(self) -> Float[np.ndarray, " distance"]:
        """The scores on these keys of heads that attend 0, 1, 2, ... tokens back."""
        width = self.keys.shape[-1]
        distances = (np.arange(width) - self.keys)[self.keys >= 0]
        return np.bincount(distances, minlength=width) / max(self.queries.sum(), 1)


@lru_cache(maxsize=16)
def blocks_of(made: Input) -> Blocks:
    """Return the blocks of an input, cached: every checkpoint requests the same keys."""
    return Blocks(made)


def _earlier_occurrences(tokens: Int[np.ndarray, "sequence query"], start: int) -> Keys:
    """Return the 1st, 2nd, ... most recent earlier position of each token, from `start` on.

    -1 where there is none.
    """
    previous = previous_occurrence(tokens, start)
    # Following `previous` from each occurrence gives the one before it, until no token has one.
    found = [previous]
    while (last := found[-1]).max(initial=-1) >= 0:
        earlier = np.take_along_axis(previous, last.clip(min=0), axis=1)
        found.append(np.where(last >= 0, earlier, -1))
    return np.stack(found)


def _null_keys(keys: Keys, start: int) -> Keys:
    """Return keys that match nothing, as `Blocks.null` describes."""
    null = np.full_like(keys, -1)
    sequence, query = np.nonzero((keys >= 0).any(axis=0))
    of_query = keys[:, sequence, query].T
    away = np.where(of_query >= 0, query[:, None] - of_query, 0)
    sets, own, owners = np.unique(away, axis=0, return_inverse=True, return_counts=True)
    tried = np.unique(np.linspace(0, len(sets) - 1, _MOST_CANDIDATES).round().astype(int))
    candidates, owners = sets[tried], owners[tried]
    fits, needed = _fitting(sets, candidates), start + candidates.max(axis=1, initial=0)
    given = np.zeros(len(candidates))
    # In order of position, because large distances fit late queries only and are left for them.
    for place in np.argsort(query, kind="stable"):
        possible = np.flatnonzero(fits[own.ravel()[place]] & (needed <= query[place]))
        if len(possible):
            chosen = possible[(given[possible] / owners[possible]).argmin()]
            given[chosen] += 1
            lags = candidates[chosen]
            at = query[place] - lags
            null[:, sequence[place], query[place]] = np.where(lags > 0, at, -1)
    return null


def _fitting(
    sets: Int[np.ndarray, "own occurrence"], candidates: Int[np.ndarray, "candidate occurrence"]
) -> Bool[np.ndarray, "own candidate"]:
    """Return whether a query that owns a set of distances may get a candidate's distances.

    Neither the keys there nor the ones after them may be a match, a match's successor, the query
    itself or the token before it. Distances are padded with 0.
    """
    real = candidates > 0
    as_many = (sets > 0).sum(axis=1)[:, None] == real.sum(axis=1)
    asked = np.concatenate([candidates, candidates - 1], axis=1)
    asked = np.where(np.tile(real, 2), asked, -1)  # -1: no distance
    fits = [~np.isin(asked, [*own[own > 0], *(own[own > 0] - 1), 0, 1]).any(axis=1) for own in sets]
    return as_many & np.array(fits).reshape(len(sets), len(candidates))
