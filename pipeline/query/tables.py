"""Results as tables: means, conditions and sorting, written piece by piece."""

import ast
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import chain
from math import prod
from pathlib import Path
from typing import IO, Any

import pandas as pd
import xarray as xr

from pipeline.errors import InputError, suggestion
from pipeline.extras import require
from pipeline.printable import print_table, printable
from pipeline.schema import DIMENSIONS
from pipeline.store.templates import LABELS
from pipeline.writing import whole_file

Stream = IO[Any] | StringIO
FORMATS = ("table", "csv", "json", "parquet")
TABLE_ROWS = 200  # the format "table" is for reading; the other formats have all rows
_PIECE = 2**19  # numbers that are converted to rows of a table at a time
# The syntax of conditions. Anything else is refused: `DataFrame.eval`, which evaluates them,
# would also call functions and read attributes.
_ALLOWED = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq, ast.Name, ast.Load, ast.Constant,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div,
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Operations on the selected numbers before they are shown, in this order.

    mean: dimensions to average over, in float64, without undefined numbers (NaN); where there are
    any, a column `left_out` has their number.
    where: a condition on the columns, such as "induction > 0.4 and layer >= 2"; it may use other
    variables of the group without further dimensions. sort: a column; descending: the order.
    limit: the largest number of rows.
    """

    mean: Sequence[str] = ()
    where: str | None = None
    sort: str | None = None
    descending: bool = False
    limit: int | None = None


def answer(array: xr.DataArray, group: xr.Dataset, asked: Asked) -> Iterator[pd.DataFrame]:
    """Yield the rows of a table of one selected variable of a group, a piece at a time.

    Dask computes the means, with shard-sized chunks. Raises InputError for an invalid condition and
    an unknown column or dimension.
    """
    dataset = _with_companions(array, group, asked.where)
    if asked.mean:
        dataset = _mean(dataset, asked.mean)
    columns = [str(name) for name in (*dataset.coords, *dataset.data_vars)]
    if asked.sort is not None and asked.sort not in columns:
        raise InputError(f"there is no column {asked.sort!r}; {suggestion(asked.sort, columns)}")
    if asked.where is not None:
        _check_condition(asked.where, columns)
    pieces = (_filtered(piece, asked.where) for piece in frames(dataset))
    # Sorting needs all pieces at once; without it, memory is that of one piece.
    if asked.sort is not None:
        whole = pd.concat(list(pieces), ignore_index=True)
        pieces = iter([whole.sort_values(asked.sort, ascending=not asked.descending)])
    return pieces if asked.limit is None else _first(pieces, asked.limit)


def to_frame(array: xr.DataArray | xr.Dataset) -> pd.DataFrame:
    """Return one row per number: its labels, the tokens seen (<NA>: unknown), and the value."""
    pieces = list(frames(array))
    return pd.concat(pieces, ignore_index=True) if len(pieces) > 1 else pieces[0]


def frames(array: xr.DataArray | xr.Dataset) -> Iterator[pd.DataFrame]:
    """Yield the rows of `to_frame` in pieces along the first dimension, to save memory."""
    dataset = array if isinstance(array, xr.Dataset) else array.to_dataset(name=_name_of(array))
    dims = [dim for dim in _labels(dataset) if dim in dataset.dims]
    if not dims:
        yield _frame(dataset)
        return
    rows = prod(dataset.sizes[dim] for dim in dims[1:])
    step = max(_PIECE // max(rows, 1), 1)
    for start in range(0, max(dataset.sizes[dims[0]], 1), step):
        yield _frame(dataset.isel({dims[0]: slice(start, start + step)}))


def require_format(format: str) -> str:
    """Return the name of a format that `write` knows. Raises InputError for another one."""
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}; {suggestion(format, FORMATS)}")
    if format == "parquet":
        require("pyarrow")
    return format


def write(frame: pd.DataFrame | Iterable[pd.DataFrame], format: str, stream: Stream) -> None:
    """Write a table, or the pieces of one, piece by piece.

    Parquet needs a binary stream, or a text stream with a `buffer`. Raises InputError for an
    unknown format.
    """
    pieces = iter([frame] if isinstance(frame, pd.DataFrame) else frame)
    writers = {
        "csv": _write_csv, "json": _write_json, "parquet": _write_parquet, "table": _write_table,
    }  # fmt: skip
    writers[require_format(format)](pieces, stream)


def write_file(
    frame: pd.DataFrame | Iterable[pd.DataFrame], path: Path, format: str | None = None
) -> None:
    """Write a table, or the pieces of one, to a file, which is made whole or not at all.

    format: by default that of the path's suffix. Raises InputError for an unknown one, and OSError
    where the file cannot be written.
    """
    format = format or format_of(path)
    binary = require_format(format) == "parquet"
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    with whole_file(path) as draft, draft.open(mode, encoding=encoding) as stream:
        write(frame, format, stream)


def format_of(path: Path) -> str:
    """Return the format that the suffix of a path names. Raises InputError for an unknown one."""
    suffix = path.suffix.removeprefix(".").lower()
    if not suffix:
        raise InputError(f"{path}: its name says no format: end it in .{', .'.join(FORMATS[1:])}")
    return require_format(suffix)


def _name_of(array: xr.DataArray) -> str:
    return str(array.name or "value")


def _with_companions(array: xr.DataArray, group: xr.Dataset, where: str | None) -> xr.Dataset:
    """Return the variable, with the group's other variables that a condition names."""
    named = _names(where) if where is not None else set()
    labels = {dim: array[dim] for dim in group.dims if dim in array.coords}
    others = {
        str(name): variable.sel({d: labels[d] for d in variable.dims})
        for name, variable in group.data_vars.items()
        if name in named and name != array.name and set(variable.dims) <= set(labels)
    }
    return xr.Dataset({_name_of(array): array, **others})


def _mean(dataset: xr.Dataset, dims: Sequence[str]) -> xr.Dataset:
    for dim in dims:
        if dim not in dataset.dims:
            known = [str(known) for known in dataset.dims]
            raise InputError(f"cannot average over {dim!r}; {suggestion(dim, known)}")
    means = {}
    for name, array in dataset.data_vars.items():
        over = [dim for dim in dims if dim in array.dims]
        means[name] = in_chunks(array).mean(over, dtype="float64") if over else array
    asked = next(iter(dataset.data_vars.values()))
    means["left_out"] = in_chunks(asked).isnull().sum(dims)
    # Labels along an averaged dimension have no value for the mean.
    labels = {n: c for n, c in dataset.coords.items() if not set(c.dims) & set(dims)}
    # One `compute` for all, so that Dask reads each chunk once.
    found = xr.Dataset(means, labels).compute()
    return found if found["left_out"].any() else found.drop_vars("left_out")


def in_chunks(array: xr.DataArray) -> xr.DataArray:
    """Return a Dask array in chunks of the stored size; a Dask array is returned unchanged."""
    if array.chunks is not None:
        return array
    sizes = array.encoding.get("preferred_chunks", {})
    chunks = {dim: sizes.get(dim, -1) for dim in array.dims}
    return array.copy(data=array.variable.chunk(chunks).data)


def _names(where: str) -> set[str]:
    try:
        tree = ast.parse(where, mode="eval")
    except SyntaxError as error:
        raise InputError(f"the condition {where!r} cannot be read: {error.msg}") from None
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise InputError(
                f"the condition {where!r} has a {type(node).__name__.lower()}: expected names and "
                "numbers with < <= > >= == !=, and, or, not"
            )
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _check_condition(where: str, columns: Sequence[str]) -> None:
    for name in sorted(_names(where) - set(columns)):
        raise InputError(
            f"the condition {where!r} names {name!r}, which is no column; "
            f"{suggestion(name, columns)}"
        )


def _filtered(frame: pd.DataFrame, where: str | None) -> pd.DataFrame:
    if where is None:
        return frame
    try:
        return frame.loc[frame.eval(where, engine="python").fillna(False).astype(bool)]
    except (TypeError, ValueError) as error:
        raise InputError(f"the condition {where!r} cannot be evaluated: {error}") from error


def _first(pieces: Iterator[pd.DataFrame], limit: int) -> Iterator[pd.DataFrame]:
    for piece in pieces:
        yield piece.head(limit)
        limit -= len(piece)
        if limit <= 0:
            return


def _frame(dataset: xr.Dataset) -> pd.DataFrame:
    labels = _labels(dataset)
    dataset = dataset.drop_vars([n for n in ("uri", "digest") if n in dataset.coords]).compute()
    if not labels:  # a mean over all there is
        return pd.DataFrame({name: [array.item()] for name, array in dataset.data_vars.items()})
    whole = dataset.expand_dims([dim for dim in labels if dim not in dataset.dims])
    frame = whole.to_dataframe(dim_order=labels).reset_index()
    for name in ("step", "tokens_seen"):
        if name in frame:
            frame[name] = frame[name].astype("Int64")  # integers with missing values
    kept = [c for c in dataset.coords if c not in labels and c not in LABELS]
    seen = [name for name in ("step", "tokens_seen") if name in frame and name not in labels]
    return frame.loc[:, [*labels, *kept, *seen, *dataset.data_vars]]


def _labels(dataset: xr.Dataset) -> list[Hashable]:
    """Return the dimensions of the table in a fixed order, also those with one selected label."""
    own = [dim for dim in dataset.dims if dim not in DIMENSIONS]
    single = {name for name, label in dataset.coords.items() if label.ndim == 0}
    return [*own, *(dim for dim in DIMENSIONS if dim in dataset.dims or dim in single)]


def _write_csv(pieces: Iterator[pd.DataFrame], stream: Stream) -> None:
    for number, piece in enumerate(pieces):  # one header for all pieces
        if getattr(stream, "isatty", bool)():  # names may hold escape sequences
            text = piece.to_csv(index=False, header=number == 0)
            stream.write(printable(str(text), kept="\n"))
        else:
            piece.to_csv(stream, index=False, header=number == 0)


def _write_json(pieces: Iterator[pd.DataFrame], stream: Stream) -> None:
    """Write one JSON array of objects, with null for undefined numbers."""
    between = "["
    for piece in pieces:
        if len(piece):
            # 15 digits is the most that pandas writes; its default of 10 would lose some.
            text = str(piece.to_json(orient="records", double_precision=15))
            stream.write(between + text[1:-1])
            between = ","
    stream.write("[]\n" if between == "[" else "]\n")


def _write_parquet(pieces: Iterator[pd.DataFrame], stream: Stream) -> None:
    import pyarrow as pa  # of an extra
    import pyarrow.parquet as pq

    first = next(pieces)
    schema = pa.Schema.from_pandas(first, preserve_index=False)
    # The schema of the first piece for all: a later piece of missing values would have another.
    with pq.ParquetWriter(getattr(stream, "buffer", stream), schema) as writer:
        for piece in chain([first], pieces):
            writer.write_table(pa.Table.from_pandas(piece, schema, preserve_index=False))


def _write_table(pieces: Iterator[pd.DataFrame], stream: Stream) -> None:
    """Write the first rows, for reading, and the number of other rows."""
    rows: list[tuple[Any, ...]] = []
    columns: list[str] = []
    total = 0
    for piece in pieces:
        columns = [str(column) for column in piece.columns]
        rows += piece.head(TABLE_ROWS - len(rows)).itertuples(index=False)
        total += len(piece)
    print_table(columns, ([_shown(value) for value in row] for row in rows), stream)
    if more := total - len(rows):
        print(
            f"... and {more} more rows: narrow the selection, or ask for csv or parquet",
            file=stream,
        )


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
