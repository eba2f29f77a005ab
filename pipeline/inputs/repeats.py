"""Random tokens with repetitions, in which only repeated tokens are predictable."""

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
    """Return independent uniform tokens with ONE random substring repeated at a later place.

    In each sequence its length is uniform on shortest..longest, its start uniform over all that
    leave room for a second copy, and the copy's start uniform over all that do not overlap it.
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
    """Return the length of each sequence's block: `longest`, or different lengths up to it.

    Varied lengths are evenly spaced from just above half of `longest` to `longest`, with as many
    different ones as possible, so that no single distance matches in more than a few sequences.
    """
    shortest = min(longest // 2 + 1, longest) if vary else longest
    shortest = max(shortest, 2)  # a block of one token would be a single token, repeated
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
    """Return BOS (if there is one), then a block of distinct random ids, repeated.

    Within a block no id occurs twice, so that a token's earlier occurrences are exactly those in
    the earlier blocks; BOS is never drawn. lengths: of each sequence's block. All sequences have
    max(lengths) * repeats tokens (and BOS), as the longest block needs; a shorter block is repeated
    further and cut off at the end. The additional tokens do not affect those before them, since
    attention is causal. Raises InputError if the vocabulary has fewer ids than a block.
    """
    allowed = np.setdiff1d(vocabulary, [] if bos_id is None else [bos_id]).astype(np.int64)
    longest = int(lengths.max())
    if len(allowed) < longest:
        raise InputError(
            f"block_length = {longest}: a block of different ids needs as many, but only "
            f"{len(allowed)} can be drawn: shorten the block"
        )
    generator = np.random.default_rng(seed)
    # np.resize repeats the block cyclically, unlike ndarray.resize, which pads with zeros.
    rows = [np.resize(generator.permutation(allowed)[:n], longest * repeats) for n in lengths]
    tokens = np.stack(rows)
    return tokens if bos_id is None else np.insert(tokens, 0, bos_id, axis=1)


def with_shuffled_repeats(
    tokens: Int[np.ndarray, "sequence position"],
    lengths: Int[np.ndarray, " sequence"],
    bos_id: int | None,
    seed: int,
) -> Int[np.ndarray, "sequence position"]:
    """Return `repeated_blocks` with every block but the first in a random order.

    Every token occurs as often, and on average as far apart, but sequences of tokens do not repeat.
    """
    start = 0 if bos_id is None else 1
    width = tokens.shape[1] - start
    # Another stream of the same seed: `default_rng(seed)` has drawn the tokens already.
    generator = np.random.default_rng([seed, 1])
    shuffled = tokens.copy()
    for row, n in zip(shuffled, lengths, strict=True):
        block = row[start : start + n].copy()
        later = [generator.permutation(block) for _ in range(n, width, n)]
        row[start:] = np.concatenate([block, *later])[:width]
    return shuffled
