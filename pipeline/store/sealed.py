"""Small objects that carry their own checksum: JSON, a line feed, and the JSON's sha256 in hex."""

import hashlib
import json
from typing import Any

from pipeline.store.fingerprint import canonical_json


class DamagedError(ValueError):
    """An object that is not what was written: empty, cut off, or with other bytes."""


def seal(value: Any) -> bytes:
    """Return the content of an object that holds a JSON value."""
    text = canonical_json(value)
    return f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n".encode()


def unseal(content: bytes) -> Any:
    """Return the JSON value that `seal` was given. Raises DamagedError."""
    text, _, rest = content.partition(b"\n")
    if not text:
        raise DamagedError("is empty")
    if rest.strip().decode("ascii", "replace") != hashlib.sha256(text).hexdigest():
        raise DamagedError("does not match its checksum")
    return json.loads(text)
