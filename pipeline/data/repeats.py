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


def repeated_blocks(
    n_sequences: int,
    vocabulary: Int[np.ndarray, "id"],
    block_length: int,
    repeats: int,
    bos_id: int | None,
    seed: int,
) -> Int[np.ndarray, "sequence position"]:
    """BOS (if there is one), then a block of ids drawn without replacement, `repeats` times over.

    Within a block no id occurs twice, so that a token's earlier occurrences are exactly the ones
    in the earlier blocks; BOS itself is never drawn. Width: block_length * repeats (+ 1).
    Raises InputError if the vocabulary has fewer ids than a block.
    """
    allowed = np.setdiff1d(vocabulary, [] if bos_id is None else [bos_id]).astype(np.int64)
    if len(allowed) < block_length:
        raise InputError(
            f"block_length = {block_length}: a block of different ids needs as many, but only "
            f"{len(allowed)} can be drawn: shorten the block"
        )
    generator = np.random.default_rng(seed)
    blocks = [generator.permutation(allowed)[:block_length] for _ in range(n_sequences)]
    tokens = np.tile(np.stack(blocks), (1, repeats))
    return tokens if bos_id is None else np.insert(tokens, 0, bos_id, axis=1)


def with_shuffled_repeats(
    tokens: Int[np.ndarray, "sequence position"], block_length: int, bos_id: int | None, seed: int
) -> Int[np.ndarray, "sequence position"]:
    """`repeated_blocks` with every block but the first in a random order of its own.

    The same tokens occur as often and as far apart on average, but no two in the same order.
    """
    start = 0 if bos_id is None else 1
    blocks = tokens[:, start:].reshape(len(tokens), -1, block_length)
    # A stream of its own: the seed has drawn the tokens already.
    generator = np.random.default_rng([seed, 1])
    later = generator.permuted(blocks[:, 1:], axis=2)
    shuffled = np.concatenate([blocks[:, :1], later], axis=1).reshape(len(tokens), -1)
    return np.concatenate([tokens[:, :start], shuffled], axis=1)
