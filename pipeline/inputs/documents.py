"""The documents of a place on disk: a text file, a data set's file, or a folder of either."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.inputs import rows, text

_MOST_WITHOUT = 10_000  # rows in succession


def files_of(place: str | Path) -> list[Path]:
    """Return the files to read at a place, in order: itself, or those of a folder.

    A file of any name that no data set's file has is a text. Raises InputError for an address, and
    for a folder without such files or with files of several kinds.
    """
    if "://" in str(place):
        raise InputError(
            f"{place}: is an address, and texts and data sets are read from a disk alone: download "
            "it, and give the file or folder"
        )
    path = Path(place)
    if not path.is_dir():
        return [path]
    if rows.is_saved(path):
        return rows.saved_files(path)
    found = sorted(one for one in path.iterdir() if one.is_file() and not _is_hidden(one))
    read = [one for one in found if rows.is_rows(one) or one.suffix == ".txt"]
    kinds = sorted({rows.ending(one) for one in read})
    if len(kinds) != 1:
        held = f"files of several kinds ({', '.join(kinds)})" if kinds else "no texts or data set"
        raise InputError(
            f"{path}: holds {held}, expected .txt, .jsonl, .parquet or .arrow files of one kind, "
            "or what save_to_disk wrote: name one file, or another folder"
        )
    return read


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


@dataclass
class Documents:
    """The documents of some files, counted while they are read.

    files: as `files_of` returns them. column: of a data set's files. read: how many documents were
    read. without_text: how many rows were skipped because their value is null, no text, or empty.
    last: the file that was read last.
    """

    files: list[Path]
    column: str
    read: int = 0
    without_text: int = 0
    last: Path | None = None

    @property
    def is_one_text(self) -> bool:
        """True for a text file, which is one document."""
        return len(self.files) == 1 and not rows.is_rows(self.files[0])

    def texts(self) -> Generator[str, None, None]:
        """Yield the texts one after another. Raises InputError for a file that cannot be read."""
        in_succession = 0
        for value in self._values():
            if isinstance(value, str) and value:
                self.read, in_succession = self.read + 1, 0
                yield value
                continue
            self.without_text, in_succession = self.without_text + 1, in_succession + 1
            if in_succession == _MOST_WITHOUT:
                raise InputError(
                    f"{self.last}: {_MOST_WITHOUT:,} rows in succession have no text in the column "
                    f"{self.column!r} (the last one has {_named(value)}): give the right one as "
                    "`column`"
                )

    def _values(self) -> Iterator[Any]:
        for file in self.files:
            self.last = file
            if rows.is_rows(file):
                yield from rows.values(file, self.column)
            else:
                yield text.read(file)

    def said(self) -> str:
        """Return what was read, for people: "3,112 documents (2 rows without text skipped)"."""
        if self.is_one_text:
            return "one text"
        many = f"{self.read:,} document{'' if self.read == 1 else 's'}"
        places = sorted({self.files[0].name, (self.last or self.files[0]).name})
        named = f" of {' to '.join(places)}" if len(self.files) > 1 else ""
        skipped = _skipped(self.without_text)
        return f"{many}{named}{skipped}"


def _skipped(count: int) -> str:
    return f" ({count:,} row{'' if count == 1 else 's'} without text skipped)" if count else ""


def _named(value: Any) -> str:
    if value is None:
        return "none"
    return "an empty one" if value == "" else f"a value of type {type(value).__name__}"
