"""Random tokens in which something repeats: nothing but repetition can be predicted."""

import numpy as np
from jaxtyping import Int

from pipeline.errors import InputError


def repeated_substrings(
    n_sequences: int,
    vocabulary: int,
    context: int,
    shortest: int,
    longest: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, "sequence position"]:
    """Independent uniform tokens with ONE random substring repeated at a random later place.

    Per sequence: its length is uniform on shortest..longest, its start uniform over all that leave
    room for a second copy, the second copy's start uniform over all that do not overlap the first.
    Raises InputError unless 1 <= shortest <= longest <= context / 2.
    """
    if not 1 <= shortest <= longest <= context // 2:
        raise InputError(
            f"substrings of {shortest} to {longest} tokens cannot be repeated within {context}: "
            f"expected 1 <= shortest <= longest <= {context // 2}"
        )
    tokens = generator.integers(vocabulary, size=(n_sequences, context))
    length = generator.integers(shortest, longest, size=(n_sequences, 1), endpoint=True)
    first = generator.integers(0, context - 2 * length, endpoint=True)
    second = generator.integers(first + length, context - length, endpoint=True)
    position = np.arange(context)
    is_copy = (second <= position) & (position < second + length)
    source = np.where(is_copy, position - (second - first), position)
    return np.take_along_axis(tokens, source, axis=1)


def block_lengths(n_sequences: int, longest: int, vary: bool) -> Int[np.ndarray, " sequence"]:
    """Return the length of each sequence's block: `longest`, or from over half of it on in turn.

    Varied, the lengths are as many as there are sequences for, evenly spaced from the shortest
    above half of `longest` to `longest` itself, so that no distance fits more than a few sequences.
    """
    shortest = min(longest // 2 + 1, longest) if vary else longest
    shortest = max(shortest, 2)
    count = min(n_sequences, longest - shortest + 1)
    lengths = np.linspace(longest, shortest, count).round().astype(np.int64)
    return np.resize(lengths, n_sequences)


def repeated_blocks(
    lengths: Int[np.ndarray, " sequence"],
    vocabulary: Int[np.ndarray, " id"],
    repeats: int,
    bos_id: int | None,
    seed: int,
) -> Int[np.ndarray, "sequence position"]:
    """BOS (if there is one), then a block of ids drawn without replacement, `repeats` times over.

    Within a block no id occurs twice, so that a token's earlier occurrences are exactly the ones
    in the earlier blocks; BOS itself is never drawn. lengths: of each sequence's block. All
    sequences are as wide as the longest block needs, max(lengths) * repeats (+ 1): where the block
    is shorter it goes on being repeated, and is cut off at the end. No token of that remainder has
    an influence on any before it, and none needs ids of its own.
    Raises InputError if the vocabulary has fewer ids than a block.
    """
    allowed = np.setdiff1d(vocabulary, [] if bos_id is None else [bos_id]).astype(np.int64)
    longest = int(lengths.max())
    if len(allowed) < longest:
        raise InputError(
            f"block_length = {longest}: a block of different ids needs as many, but only "
            f"{len(allowed)} can be drawn: shorten the block"
        )
    generator = np.random.default_rng(seed)
    rows = [np.resize(generator.permutation(allowed)[:n], longest * repeats) for n in lengths]
    tokens = np.stack(rows)
    return tokens if bos_id is None else np.insert(tokens, 0, bos_id, axis=1)


def with_shuffled_repeats(
    tokens: Int[np.ndarray, "sequence position"],
    lengths: Int[np.ndarray, " sequence"],
    bos_id: int | None,
    seed: int,
) -> Int[np.ndarray, "sequence position"]:
    """`repeated_blocks` with every block but the first in a random order of its own.

    The same tokens occur as often and as far apart on average, but no two in the same order.
    """
    start = 0 if bos_id is None else 1
    width = tokens.shape[1] - start
    # A stream of its own: the seed has drawn the tokens already.
    generator = np.random.default_rng([seed, 1])
    shuffled = tokens.copy()
    for row, n in zip(shuffled, lengths, strict=True):
        block = row[start : start + n].copy()
        later = [generator.permutation(block) for _ in range(n, width, n)]
        row[start:] = np.concatenate([block, *later])[:width]
    return shuffled
