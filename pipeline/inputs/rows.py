"""The rows of a data set's files: JSON lines, Parquet files, and Arrow files that `datasets` saved.

Rows are read as they are asked for, so that of a large file only the beginning is read.
"""

import gzip
import io
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pipeline.errors import InputError, first_line
from pipeline.extras import require
from pipeline.outside import content_of, json_object, opened, parsed_json, reading

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST_LINE = 2**26  # bytes
_ROWS = 64  # of a Parquet file, read at a time
_BUFFER = 2**18  # bytes of a column of a Parquet file, read at a time
_MOST_NAMES = 20  # of columns, in a message


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk` of the library `datasets`."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def saved_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder that `save_to_disk` wrote, in the order of its state.json.

    Raises InputError for a folder with several splits, and for one that its state.json does not
    describe.
    """
    if not (folder / "state.json").is_file():
        inside = sorted(one.parent.name for one in folder.glob("*/state.json"))
        raise InputError(
            f"{folder}: holds several splits: give the folder of one of them as `path` "
            f"({', '.join(inside) or 'none is there'})"
        )
    file = folder / "state.json"
    state = json_object(content_of(file, InputError), str(file), InputError)
    if state.get("_indices_data_files"):
        raise InputError(
            f"{file}: lists the rows to read in files of their own, as old versions of `datasets` "
            "did: load it there, and save it again with save_to_disk"
        )
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{file}: names no data files: restore it")
    return [folder / _file_name(entry, file) for entry in cast("list[object]", listed)]


def _file_name(entry: object, file: Path) -> str:
    """Return the name in an entry of state.json. Raises InputError if it could lead elsewhere."""
    name = cast("dict[str, object]", entry).get("filename") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name.endswith(".arrow") or Path(name).name != name:
        raise InputError(f"{file}: names {name!r} where a file is expected: restore it")
    return name


def ending(file: Path) -> str:
    """Return the ending of a file's name by which it is read, in small letters."""
    name = file.name.lower()
    return next((one for one in _READERS if name.endswith(one)), file.suffix.lower())


def is_rows(file: Path) -> bool:
    """Return whether a file's name is that of a data set's file."""
    return ending(file) in _READERS


def values(file: Path, column: str) -> Generator[Any, None, None]:
    """Yield the value of a column in each row of a data set's file; None where a row has none.

    An empty line is a row without values.

    Raises InputError for a file that cannot be read, from the line or row on at which it cannot,
    and for one without the column, with the columns that it has.
    """
    yield from _READERS[ending(file)](file, column)


def _json_lines(file: Path, column: str) -> Iterator[Any]:
    with opened(file, InputError) as stream:
        lines = _unpacked(file, stream)
        is_checked = False
        for number in count(1):
            where = f"{file}: line {number:,}"
            with _reading(where):
                line = lines.readline(_LONGEST_LINE + 1)
            if len(line) > _LONGEST_LINE:
                raise InputError(
                    f"{where}: has more than {_LONGEST_LINE:,} bytes, expected a JSON object on "
                    "each line: write one document a line"
                )
            if not line:
                return
            row = _row(line, where) if line.strip() else {}
            if row and not is_checked:
                _require_column(where, column, list(row))
                is_checked = True
            yield row.get(column)


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = parsed_json(line, finite=False)
    except ValueError as error:
        raise InputError(
            f"{where}: is not valid JSON ({first_line(error)}): correct or remove it"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: holds no JSON object: correct or remove it")
    return cast("dict[str, Any]", value)


def _unpacked(file: Path, stream: BinaryIO) -> io.BufferedIOBase:
    name = file.name.lower()
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=stream)
    if name.endswith(".zst"):
        require("pyarrow")
        import pyarrow as pa

        unpacked = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
        return io.BufferedReader(cast(io.RawIOBase, unpacked))
    return cast(io.BufferedIOBase, stream)


def _parquet(file: Path, column: str) -> Iterator[Any]:
    require("pyarrow")
    import pyarrow.parquet as pq

    with opened(file, InputError) as stream:
        with _reading(str(file)):
            # Without pre_buffer, which would read the column of a whole row group at once.
            found = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER)
            names = found.schema_arrow.names
        _require_column(str(file), column, names)
        yield from _of_batches(file, lambda: found.iter_batches(_ROWS, columns=[column]))


def _arrow(file: Path, column: str) -> Iterator[Any]:
    require("pyarrow")
    import pyarrow as pa

    with opened(file, InputError) as stream:
        with _reading(str(file)):
            found = pa.ipc.open_stream(stream)
            names = found.schema.names
        _require_column(str(file), column, names)
        at = names.index(column)
        yield from _of_batches(file, lambda: (one.select([at]) for one in found))


def _of_batches(file: Path, begin: "Callable[[], Iterator[pa.RecordBatch]]") -> Iterator[Any]:
    """Yield the values of batches of one column. Names the row from which a file is damaged."""
    batches, row = None, 1
    while True:
        with _reading(f"{file}: row {row:,}"):
            batches = batches or iter(begin())
            batch = next(batches, None)
            found = [] if batch is None else _values_of(batch)
        if batch is None:
            return
        row += len(found)
        yield from found


def _values_of(batch: "pa.RecordBatch") -> list[Any]:
    # Offsets of a damaged file may point anywhere: unchecked, reading them ends the process.
    batch.validate(full=True)
    return batch.column(0).to_pylist()


_READERS: dict[str, Callable[[Path, str], Iterator[Any]]] = {
    ".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".jsonl.zst": _json_lines,
    ".json.gz": _json_lines, ".json.zst": _json_lines, ".parquet": _parquet, ".arrow": _arrow,
}  # fmt: skip


def _require_column(where: str, column: str, names: list[str]) -> None:
    if column in names:
        return
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    raise InputError(
        f"{where}: has no column {column!r}, but {', '.join(names[:_MOST_NAMES]) or 'none'}{more}: "
        "give the right one as `column`"
    )


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Raise what a library raises for a damaged file as InputError, and errors of storage as such.

    Libraries raise OSError for damaged files too, but without the number of an error.
    """
    try:
        with reading(where, InputError):
            yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(
            f"{where}: cannot be read ({first_line(error)[:200]}): restore the file"
        ) from error
