"""Random tokens with repeated strings of known length before chosen positions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from pipeline.errors import InputError


@dataclass(frozen=True)
class Matches:
    """Sequences, and for every position its match, if it is a probe (else -1, and length 0).

    A probe is a position whose last `length` tokens, and no more, occurred before. successor: the
    position right after that earlier occurrence, whose token comes next here too. other: the
    position after another string, as a control without a match.
    """

    tokens: Int[np.ndarray, "sequence position"]
    length: Int[np.ndarray, "sequence position"]
    successor: Int[np.ndarray, "sequence position"]
    other: Int[np.ndarray, "sequence position"]


def controlled_matches(
    n_sequences: int,
    vocabulary: Int[np.ndarray, " id"],
    strings: int,
    longest: int,
    bos_id: int | None,
    seed: int,
) -> Matches:
    """Return BOS (if there is one), `strings` random strings, then the end of each string again.

    Each string has `longest` tokens and a successor. They are followed, in another order, by blocks
    of new random tokens, the last m tokens of a string, and its successor; m cycles through
    1 .. longest over strings and sequences. No id is drawn twice in a sequence, so that a match has
    exactly the stated length. Raises InputError if the vocabulary has too few ids for that.
    """
    allowed = np.setdiff1d(vocabulary, [] if bos_id is None else [bos_id]).astype(np.int64)
    needed = strings * (2 * longest + 1)
    if len(allowed) < needed:
        raise InputError(
            f"{strings} strings of {longest} tokens with different ids need up to {needed} ids, "
            f"but only {len(allowed)} can be drawn: lower `strings` or `longest`"
        )
    generator = np.random.default_rng(seed)
    rows = [
        _sequence(generator, allowed, strings, longest, row * strings) for row in range(n_sequences)
    ]
    tokens, length, successor, other = (np.stack(part) for part in zip(*rows, strict=True))
    if bos_id is None:
        return Matches(tokens, length, successor, other)
    # BOS shifts every position by one; -1 marks "no probe" and stays.
    successor, other = (np.where(of < 0, of, of + 1) for of in (successor, other))
    return Matches(
        *(np.insert(of, 0, first, axis=1)
          for of, first in ((tokens, bos_id), (length, 0), (successor, -1), (other, -1)))
    )  # fmt: skip


def _sequence(
    generator: np.random.Generator,
    allowed: Int[np.ndarray, " id"],
    strings: int,
    longest: int,
    turn: int,
) -> tuple[Int[np.ndarray, " position"], ...]:
    drawn = generator.permutation(allowed)
    block = longest + 1
    first, fresh = drawn[: strings * block].reshape(strings, block), drawn[strings * block :]
    tokens = np.concatenate([first.ravel(), np.empty(strings * (block + 1), np.int64)])
    length = np.zeros_like(tokens)
    successor, other = np.full_like(tokens, -1), np.full_like(tokens, -1)
    order = generator.permutation(strings)
    for place, string in enumerate(order):
        m = 1 + (turn + place) % longest
        start = strings * block + place * (block + 1)
        tokens[start : start + block - m], fresh = fresh[: block - m], fresh[block - m :]
        tokens[start + block - m : start + block + 1] = first[string, longest - m :]
        probe = start + longest
        length[probe] = m
        successor[probe] = string * block + longest
        other[probe] = (string + 1) % strings * block + longest
    return tokens, length, successor, other
