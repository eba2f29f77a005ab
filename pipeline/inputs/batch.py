"""A fixed token batch: made once, hashed, and the same for every checkpoint."""

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
    """One token batch, stored with the results.

    tokens: the ids that every checkpoint sees. arrays: what a measure needs beside them (labels,
    the train/test split). attributes: how the batch was made (JSON values).
    """

    name: str
    kind: str
    tokens: Int[np.ndarray, "sequence position"]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """sha256 of all that the batch holds but its name."""
        state = hashlib.sha256(json.dumps([self.kind, self.attributes], sort_keys=True).encode())
        for key, array in sorted({"tokens": self.tokens, **self.arrays}.items()):
            state.update(f"{key} {array.dtype.str} {array.shape}".encode())
            state.update(array.tobytes())
        return state.hexdigest()

    @property
    def note(self) -> str:
        """What was taken for it though neither the run nor the analysis says it; "" for nothing."""
        generator = self.attributes.get("split_generator")
        match self.attributes.get("split_proven"):
            case True:
                return (
                    f"input {self.name!r}: split_generator is not said; {generator!r} is taken, "
                    "under which the weights have the train loss that the files note"
                )
            case False:
                return (
                    f"input {self.name!r}: split_generator is not said, and the files do not prove "
                    f"it; the split of {generator!r} is taken, which may not be the run's: give "
                    "`split_generator: random` for files of the grokking paper's code"
                )
        return ""

    def description(self) -> dict[str, Any]:
        """What identifies it beside the results that it gave."""
        return {"name": self.name, "kind": self.kind, "digest": self.digest, **self.attributes}
