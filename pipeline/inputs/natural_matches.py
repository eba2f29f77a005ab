"""Strings that a text repeats by itself, and corrupted versions of their earlier occurrences."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from pipeline.errors import InputError

Positions = Int[np.ndarray, "sequence position"]


def previous_occurrence(tokens: Positions, start: int = 0) -> Positions:
    """Return the most recent earlier position of each token, from `start` on; -1: there is none."""
    previous = np.full(tokens.shape, -1)
    # A stable sort groups equal tokens in order of position: neighbours are successive occurrences.
    order = start + np.argsort(tokens[:, start:], axis=1, kind="stable")
    ordered = np.take_along_axis(tokens, order, axis=1)
    same = ordered[:, 1:] == ordered[:, :-1]
    np.put_along_axis(previous, order[:, 1:], np.where(same, order[:, :-1], -1), axis=1)
    return previous


def string_ids(
    tokens: Positions, length: int, real: Bool[np.ndarray, "sequence position"]
) -> Positions:
    """Return a number for the last `length` tokens up to each position, equal for equal strings.

    Where there are fewer, or padding among them, it is a negative number that occurs once in its
    sequence.
    """
    ids, whole = tokens, real
    for back in range(1, length):
        # Pairs of (string so far, token before it) are numbered anew, so that numbers stay small.
        pairs = ids * (tokens.max() + 1) + np.roll(tokens, back, axis=1)
        ids = np.unique(pairs, return_inverse=True)[1].reshape(tokens.shape)
        whole = whole & np.roll(real, back, axis=1)
    position = np.arange(tokens.shape[1])
    return np.where(whole & (position >= length - 1), ids, -1 - position)


def latest_match(
    tokens: Positions, length: int, real: Bool[np.ndarray, "sequence position"]
) -> Positions:
    """Return where the last `length` tokens up to each position ended most recently before; or -1.

    An occurrence that ends at the position before does not count: the token after it is the
    position's own.
    """
    previous = previous_occurrence(string_ids(tokens, length, real))
    adjacent = previous == np.arange(tokens.shape[1]) - 1
    before = np.take_along_axis(previous, previous.clip(min=0), axis=1)
    return np.where(adjacent & (previous >= 0), before, previous)


@dataclass(frozen=True)
class NaturalMatches:
    """Sequences with one probe each, clean and with its source corrupted.

    probe: the last position of a string that occurred exactly once before, as does the token that
    follows it. source: the last position of that earlier occurrence. earlier, last: the tokens with
    those of the occurrence replaced, all but its last one, or its last one.
    """

    clean: Positions
    earlier: Positions
    last: Positions
    probe: Int[np.ndarray, " sequence"]
    source: Int[np.ndarray, " sequence"]


def natural_matches(
    tokens: Positions, length: int, seed: int, n_special: int = 0
) -> NaturalMatches:
    """Return the sequences that have a probe, with one of their probes, chosen at random.

    A probe's last `length` tokens occurred exactly once before in its sequence, without an overlap,
    and the same token follows both times. A new token is drawn at the frequency of all tokens among
    those that are neither in the string nor the one that follows. n_special: tokens at the start of
    each sequence, such as BOS, that are neither part of a string nor drawn. Raises InputError where
    no sequence has a probe, or where no other token is left.
    """
    generator = np.random.default_rng(seed)
    is_probe, source = _probes(tokens, length, n_special)
    chosen = np.flatnonzero(is_probe.any(axis=1))
    if not len(chosen):
        raise InputError(
            f"none of {len(tokens)} sequences of {tokens.shape[1]} tokens repeats {length} tokens "
            "and the one after them: give more or longer sequences, or lower `match`"
        )
    probe = np.array([generator.choice(np.flatnonzero(is_probe[row])) for row in chosen])
    clean, source = tokens[chosen], source[chosen, probe]
    earlier, last = clean.copy(), clean.copy()
    ids, counts = np.unique(tokens[:, n_special:], return_counts=True)
    for row, end in enumerate(source):
        string = clean[row, end - length + 1 : end + 2]
        # Tokens of the string would leave, or make, matches of fewer tokens.
        left = counts * ~np.isin(ids, string)
        if not left.any():
            raise InputError(
                f"every token of the text is in the string {string.tolist()}: give more text"
            )
        drawn = generator.choice(ids, size=length, p=left / left.sum())
        earlier[row, end - length + 1 : end] = drawn[:-1]
        last[row, end] = drawn[-1]
    return NaturalMatches(clean, earlier, last, probe, source)


def _probes(
    tokens: Positions, length: int, n_special: int
) -> tuple[Bool[np.ndarray, "sequence position"], Positions]:
    """Return a mask of all probes, and the last position of the occurrence before; or -1."""
    counted = np.ones(tokens.shape, dtype=bool)
    counted[:, :n_special] = False
    previous = previous_occurrence(string_ids(tokens, length, counted))
    one_before = np.take_along_axis(previous, previous.clip(min=0), axis=1)
    apart = previous <= np.arange(tokens.shape[1]) - length
    following = np.roll(tokens, -1, axis=1)
    same = following == np.take_along_axis(following, previous.clip(min=0), axis=1)
    is_probe = (previous >= 0) & (one_before < 0) & apart & same
    is_probe[:, -1] = False  # no token follows it
    return is_probe, previous
