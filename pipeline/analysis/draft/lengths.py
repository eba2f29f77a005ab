"""Lengths that fit a run: of repeated blocks, of sequences, and the tokens that are compared."""

from pipeline.measures.token_loss import EARLY_TOKEN, LATE_TOKEN

_PAPER = 512  # tokens of the sequences on which Olsson et al. 2022 compare tokens 50 and 500


def block_length(
    wanted: int, context: int | None, n_drawable: int, bos: bool, repeats: int = 2
) -> int:
    """Return the length of a block that fits the context when repeated; 0 if none does.

    wanted: the length if there is room. n_drawable: the ids of a block are all different.
    """
    room = wanted if context is None else (context - bos) // repeats
    length = min(wanted, room, n_drawable)
    return length if length >= 2 else 0


def compared_tokens(length: int) -> tuple[int, int] | None:
    """Return the early and the late token of the in-context score on sequences of `length` tokens.

    The paper's on sequences that reach them; else the same shares of the length; None where there
    are no two tokens to compare.
    """
    if length > LATE_TOKEN:
        return EARLY_TOKEN, LATE_TOKEN
    early = max(1, length * EARLY_TOKEN // _PAPER)
    late = min(length - 1, max(2, length * LATE_TOKEN // _PAPER))
    return (early, late) if early < late else None
