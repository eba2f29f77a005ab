"""Small objects that carry their own checksum: JSON, a line feed, and the JSON's sha256 in hex."""

import hashlib
from typing import Any

from pipeline.outside import parsed_json
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
    return parsed(text)


def parsed(text: bytes) -> Any:
    """Return the value of a JSON text. Raises DamagedError: its checksum may be someone else's."""
    try:
        return parsed_json(text)
    except ValueError as error:
        raise DamagedError(f"is not valid JSON ({error})") from error
