"""The tokens of a stored input as text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from pipeline.store import Store


def token_texts(store: str | Path | Store, input: Mapping[str, Any]) -> list[list[str]]:
    """Return the text of every token of an input, by sequence and position.

    input: its description, the attribute `input` of each group that reads it. The texts are those
    of the run's tokenizer, or of the input's own. A token's id stands for its text where the run
    has no tokenizer, and in inputs that were saved without texts. Texts come from outside: escape
    them where they are shown.

    Raises InputError where the input is not in the store.
    """
    place = store if isinstance(store, Store) else Store(str(store))
    name, digest = input["name"], input["digest"]
    return shown(place.load_input(name, digest)[0], place.load_token_texts(name, digest))


def shown(
    tokens: Int[np.ndarray, "sequence position"], texts: Mapping[int, str]
) -> list[list[str]]:
    """Return the text of every token, by sequence and position; its id where it has none."""
    # No array: NumPy drops the zero bytes at the end of a text.
    return [[texts.get(id_, str(id_)) for id_ in row] for row in tokens.tolist()]
