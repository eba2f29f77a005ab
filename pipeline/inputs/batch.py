"""Input: a fixed token batch, made once, hashed, and used for every checkpoint."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, eq=False)
class Input:
    """A token batch that is stored with the results.

    tokens: the ids that every checkpoint reads. arrays: further data for measures (labels, the
    train/test split). attributes: JSON values that describe how the batch was made. texts: the
    text of each id, where a tokenizer has one. said: how texts were cut into the batch, for people.
    Both are only shown, and therefore no part of the digest.
    """

    name: str
    kind: str
    tokens: Int[np.ndarray, "sequence position"]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[int, str] = field(default_factory=dict)
    said: str = ""

    @cached_property
    def digest(self) -> str:
        """The sha256 of tokens, arrays, kind and attributes."""
        state = hashlib.sha256(json.dumps([self.kind, self.attributes], sort_keys=True).encode())
        for key, array in sorted({"tokens": self.tokens, **self.arrays}.items()):
            # Arrays of different dtype or shape may have the same bytes.
            state.update(f"{key} {array.dtype.str} {array.shape}".encode())
            state.update(array.tobytes())
        return state.hexdigest()

    @property
    def note(self) -> str:
        """A sentence on values that were assumed, being in neither run nor analysis; "" if none."""
        generator = self.attributes.get("split_generator")
        match self.attributes.get("split_proven"):
            case True:
                return (
                    f"input {self.name!r}: split_generator is unknown; {generator!r} is used, "
                    "with which the weights have the train loss that the files record"
                )
            case False:
                return (
                    f"input {self.name!r}: split_generator is unknown, and the files do not prove "
                    f"it; the split of {generator!r} is used, which may not be the run's: give "
                    "`split_generator: random` for files of the grokking paper's code"
                )
        return ""

    def description(self) -> dict[str, Any]:
        """Return the JSON values that identify the input in a store."""
        return {"name": self.name, "kind": self.kind, "digest": self.digest, **self.attributes}
