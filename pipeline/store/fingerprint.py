"""Fingerprints: digests of everything that a stored number depends on.

A fingerprint has two parts, `<variant>-<weights>`. The variant covers all but the weights (input,
measure, version, parameters, engine, reference value, dtype, device type, ...), so that rows of
one variant can share an array, and the names of the markers alone show which rows are done.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# 64 bits each: short enough for the names of markers, and safe against chance collisions.
VARIANT_LENGTH = 16
WEIGHTS_LENGTH = 16


def digest_of(value: Any) -> str:
    """Return the sha256, in hex, of `value` as canonical JSON (sorted keys, no spaces).

    numpy numbers and arrays are hashed as numbers and lists. Raises ValueError for NaN and
    infinities, which JSON does not have.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value.

    Raises ValueError for NaN and infinities, TypeError for types that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def plain_json(value: Any) -> Any:
    """Return `value` after a round trip through JSON, as attributes are stored and compared."""
    return json.loads(canonical_json(value))


def variant_id(**parts: Any) -> str:
    """Return 16 hex digits of everything in the fingerprint but the weights."""
    return digest_of(parts)[:VARIANT_LENGTH]


def fingerprint(variant: str, weights_digest: str) -> str:
    """Return `<variant>-<weights>`, which identifies everything that one row depends on.

    Raises ValueError where the digest of the weights is not one.
    """
    if not re.fullmatch(r"[0-9a-f]{16,}", weights_digest):
        raise ValueError(f"weights digest {weights_digest!r} is not a hex digest")
    # A part of the digest is enough to distinguish the checkpoints of one run.
    return f"{variant}-{weights_digest[:WEIGHTS_LENGTH]}"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)  # sets have no order, and equal ones must have one digest
    raise TypeError(f"{type(value).__name__} is not a JSON value")
