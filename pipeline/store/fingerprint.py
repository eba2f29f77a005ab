"""What makes a stored number valid: a digest of everything that it follows from.

A fingerprint has two parts, `<variant>-<weights>`. The variant covers all but the weights (input,
measure, version, parameters, engine, reference value, dtype, device type, ...), so that rows of
one variant may stand in one array, and the names of the markers alone tell what is done.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

VARIANT_LENGTH = 16
WEIGHTS_LENGTH = 16


def digest_of(value: Any) -> str:
    """sha256, in hex, of `value` as canonical JSON (sorted keys, no spaces).

    numpy numbers and arrays count as the lists they hold; NaN and infinities are refused with
    ValueError, because they are no JSON.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """The one JSON text of a value; ValueError for NaN, TypeError for what is no JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def plain_json(value: Any) -> Any:
    """`value` as it comes back from JSON: attributes are stored, hashed and compared like this."""
    return json.loads(canonical_json(value))


def variant_id(**parts: Any) -> str:
    """16 hex digits of everything in the fingerprint but the weights."""
    return digest_of(parts)[:VARIANT_LENGTH]


def fingerprint(variant: str, weights_digest: str) -> str:
    """`<variant>-<weights>`: what one row of a measure follows from."""
    if not re.fullmatch(r"[0-9a-f]{16,}", weights_digest):
        raise ValueError(f"weights digest {weights_digest!r} is not a hex digest")
    return f"{variant}-{weights_digest[:WEIGHTS_LENGTH]}"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
