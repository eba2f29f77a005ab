"""Streams over bytes that are read by their place, for libraries that want a file."""

import io


class PlacedStream(io.BufferedIOBase):
    """A stream of `size` bytes with a position; subclasses read the bytes at it."""

    name, mode = "", "rb"  # which streams of files have

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, which may be behind the end, and return it."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, at most to the end, and go behind them."""
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(left, size)
        found = self._read_at(self._at, wanted) if wanted else b""
        self._at += len(found)
        return found

    def _read_at(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start` on, fewer if there are no more."""
        raise NotImplementedError
