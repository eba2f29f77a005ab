"""Arrays in a page: exact numbers, in few characters, and 8 bits for what is only coloured."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from jaxtyping import Int, Real

from pipeline.printable import printable

Json = dict[str, Any]
LEVELS = 254  # of a colour; 255 is undefined


class Base64(str):
    """Encoded bytes: long, and with no character that needs an escape."""


def exact(values: Real[np.ndarray, "*any"]) -> Json | list[Any]:
    """Return an array from which a script reads each number as it is stored.

    float32 in base64, which is smaller than text; other numbers as text that rounds to them.
    """
    array = np.asarray(values)
    if array.dtype == np.float32:
        content = array.astype("<f4", copy=False).tobytes()
        return {"f32": Base64(base64.b64encode(content).decode()), "shape": list(array.shape)}
    return plain(array)


def plain(values: Real[np.ndarray, "*any"]) -> list[Any]:
    """Return an array as a flat list, with None for what is not finite."""
    flat = np.asarray(values).ravel()
    if flat.dtype.kind in "iub":
        return flat.tolist()
    return [one if ok else None for one, ok in zip(flat.tolist(), np.isfinite(flat), strict=True)]


def integers(values: Int[np.ndarray, " any"]) -> Json | list[int]:
    """Return whole numbers, such as steps, by the differences from one to the next.

    {"from": 0, "by": [[1, 2], [2, 1]]} is 0, 1, 2, 4. A plain list where that is shorter.
    """
    flat = np.asarray(values).tolist()
    by = [[step, len(list(same))] for step, same in groupby(b - a for a, b in pairwise(flat))]
    return {"from": flat[0], "by": by} if 2 * len(by) < len(flat) else flat


def coloured(values: Real[np.ndarray, "*any"], low: float, high: float) -> Json:
    """Return an array in 254 steps from low to high, for colours; never a number that is read.

    The byte of x is round(254 (x - low) / (high - low)), and 255 where x is not finite.
    """
    array = np.asarray(values, dtype=np.float32)
    known = np.isfinite(array)
    span = high - low if high > low else 1.0
    place = np.clip((np.where(known, array, low) - low) / span, 0, 1)
    levels = np.where(known, np.rint(LEVELS * place), 255).astype(np.uint8)
    # No time in the header: the same numbers give the same page.
    content = Base64(base64.b64encode(gzip.compress(levels.tobytes(), 6, mtime=0)).decode())
    return {"u8": content, "shape": list(array.shape), "low": float(low), "high": float(high)}


def script_json(value: Any) -> str:
    """Return JSON that is safe within a <script> element, with all its text printable."""
    text = json.dumps(_printable(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value if isinstance(value, Base64) else printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): _printable(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_printable(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
