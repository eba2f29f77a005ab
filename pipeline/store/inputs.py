"""The object of an input, `_inputs/<name>.<digest>.npz`: tokens, extra arrays, texts of its ids."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from pipeline.outside import parsed_json
from pipeline.store.fingerprint import canonical_json
from pipeline.store.templates import checked_name

INPUTS = "_inputs"


def input_key(name: str, digest: str) -> str:
    """Return the key of the input with this name and this digest of its tokens."""
    return f"{INPUTS}/{checked_name(name, 'input')}.{digest[:16]}.npz"


def encode_input(
    tokens: Int[np.ndarray, "sequence position"],
    extras: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    texts: Mapping[int, str] | None,
) -> bytes:
    """Return the content of an input's object. texts: of its ids."""
    arrays = {f"extra.{key}": value for key, value in extras.items()}
    arrays |= {"tokens": tokens, "attributes": np.array(canonical_json(attributes))}
    if texts:
        arrays["texts"] = np.array(canonical_json({str(id_): texts[id_] for id_ in texts}))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def decode_input(
    content: bytes,
) -> tuple[Int[np.ndarray, "sequence position"], dict[str, np.ndarray], dict[str, Any]]:
    """Return the tokens, extra arrays and attributes of an input; some exception if damaged.

    Every member of the file has a checksum, which reading it compares.
    """
    # No pickles: a store may come from anywhere, and unpickling runs code.
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        extras = {k[6:]: arrays[k] for k in arrays.files if k.startswith("extra.")}
        return arrays["tokens"], extras, parsed_json(arrays["attributes"].item().encode())


def decode_texts(content: bytes) -> dict[int, str]:
    """Return the texts of the ids of an input; empty without any; some exception if damaged."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if "texts" not in arrays.files:
            return {}
        texts = parsed_json(arrays["texts"].item().encode())
        return {int(id_): str(text) for id_, text in texts.items()}
