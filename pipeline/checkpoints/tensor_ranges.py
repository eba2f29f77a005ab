"""Read some tensors of safetensors files, by ranges of bytes, wherever the files are stored.

The header of every file is read, and then only the bytes of the wanted tensors. Ranges between
which few bytes lie are read as one, since a request takes as long as some megabytes: altogether at
most `_EXTRA` of the wanted bytes are read beside them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints.headers import Header, read_header
from pipeline.checkpoints.placeholders import BEGINNING, placeholder_of
from pipeline.errors import ChangedError, CheckpointError, first_line
from pipeline.outside import opened

_EXTRA = 0.02
# As in `s3.py`: a single connection to S3 is limited to some 100 MB/s.
_STREAMS = 4
_PIECE = 32 * 2**20  # bytes of one request

Span = tuple[int, int]


@dataclass(frozen=True)
class RangedFile:
    """A safetensors file: its address, its bytes in all, and how to read some of them.

    read(start, stop): returns exactly these bytes, or raises an error.
    """

    address: str
    size: int
    read: Callable[[int, int], bytes]


def local_ranges(path: Path) -> RangedFile:
    """Return a file on this machine. Its `read` raises ChangedError if the file has become shorter.

    Its bytes are copied and not mapped: a mapped file that is truncated would end the process.
    """

    def read(start: int, stop: int) -> bytes:
        with opened(path, CheckpointError) as stream:
            stream.seek(start)
            found = stream.read(stop - start)
        if len(found) != stop - start:
            raise ChangedError(f"{path}: became shorter while it was read: copy it again")
        return found

    return RangedFile(str(path), path.stat().st_size, read)


def header_of(file: RangedFile) -> Header:
    """Return a file's header.

    Raises CheckpointError, naming the file, if it is no safetensors file or not as long as its
    header says.
    """

    def read(start: int, stop: int) -> bytes:
        stop = min(stop, file.size)
        return file.read(start, stop) if stop > start else b""

    try:
        header = read_header(read, file.size)
        if header.size != file.size:
            raise ValueError(f"it has {file.size:,} bytes, by its header {header.size:,}")
    except (ValueError, EOFError) as error:
        if found := placeholder_of(read(0, BEGINNING)):
            raise CheckpointError(f"{file.address}: {found}") from error
        raise CheckpointError(
            f"{file.address}: is truncated or no weight file ({first_line(error)}): save or copy "
            "it again"
        ) from error
    return header


def read_spans(file: RangedFile, spans: Mapping[str, Span]) -> dict[str, bytearray]:
    """Return the bytes of some tensors of a file, by name."""
    found = {name: bytearray(stop - start) for name, (start, stop) in spans.items()}
    placed = [(start, stop, found[name]) for name, (start, stop) in spans.items() if stop > start]

    def copy(piece: Span) -> None:
        # Within the thread, so that no more than `_STREAMS` pieces are in memory at a time.
        start, stop = piece
        content = memoryview(file.read(start, stop))
        for first, end, target in placed:
            low, high = max(first, start), min(end, stop)
            if low < high:
                target[low - first : high - first] = content[low - start : high - start]

    with ThreadPoolExecutor(_STREAMS) as threads:
        list(threads.map(copy, _pieces(joined(spans.values()))))
    return found


def joined(spans: Collection[Span]) -> list[Span]:
    """Return ranges that cover the given ones, joined where that adds the fewest other bytes."""
    ordered = sorted(span for span in spans if span[1] > span[0])
    room = _EXTRA * sum(stop - start for start, stop in ordered)
    gaps = sorted(
        (ordered[i + 1][0] - ordered[i][1], i) for i in range(len(ordered) - 1)
    )  # the smallest first
    closed: set[int] = set()
    for gap, index in gaps:
        if gap > room:
            break
        room -= max(gap, 0)
        closed.add(index)
    found: list[Span] = []
    for index, (start, stop) in enumerate(ordered):
        if index - 1 in closed:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def bytes_to_read(headers: Iterable[Header], wanted: Collection[str]) -> int:
    """Return the bytes that are read for some tensors: those of the headers, and `joined`."""
    total = 0
    for header in headers:
        total += min(header.spans.values(), default=(header.size, 0))[0]
        spans = [span for name, span in header.spans.items() if name in wanted]
        total += sum(stop - start for start, stop in joined(spans))
    return total


def _pieces(ranges: Sequence[Span]) -> list[Span]:
    return [
        (at, min(at + _PIECE, stop)) for start, stop in ranges for at in range(start, stop, _PIECE)
    ]
