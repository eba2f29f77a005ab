"""The texts of an input's tokens, as its tokenizer writes them."""

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

_SPACE = "▁"  # how sentencepiece writes a space within a token


def texts_of(
    tokens: Int[np.ndarray, "sequence position"], tokenizer: PreTrainedTokenizerBase
) -> dict[int, str]:
    """Return the text of each id among the tokens, with the spaces that belong to it.

    Ids that the tokenizer does not know are left out. A token that is a part of a character is
    decoded to U+FFFD, as by the tokenizer.
    """
    pieces = {id_: piece for piece, id_ in tokenizer.get_vocab().items()}
    used = [int(id_) for id_ in np.unique(tokens) if int(id_) in pieces]
    return {id_: _text(id_, pieces[id_], tokenizer) for id_ in used}


def _text(id_: int, piece: str, tokenizer: PreTrainedTokenizerBase) -> str:
    # Decoded alone, a token of sentencepiece loses the space before it.
    if piece.startswith(_SPACE):
        return piece.replace(_SPACE, " ")
    return str(tokenizer.decode([id_], clean_up_tokenization_spaces=False))
