"""Read a run whose checkpoints are listed in a file, each with its step, address and tokens seen.

    step,address,tokens                       [{"step": 0, "address": "step-0"},
    0,step-0,0                                 {"step": 1000, "address": "s3://bucket/run/1000",
    1000,s3://bucket/run/1000,2000000000         "tokens": 2000000000}]

An address is that of a checkpoint's folder or file on any storage: a path (relative to the list),
`s3://bucket/prefix`, or `hf://owner/name@ref` with a branch, tag or commit. `tokens` may be absent.
"""

import csv
import io
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pipeline.checkpoints.hub_address import Address, parse_address
from pipeline.checkpoints.left_out import NO_WEIGHTS
from pipeline.checkpoints.places import is_address_list, place_of
from pipeline.checkpoints.side_by_side import side_by_side
from pipeline.checkpoints.stored import AtomicUnit, Entry, Files, Folder, PlaceContents, StoredFile
from pipeline.config import RunLayout
from pipeline.config.places import require_place
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.outside import content_of, is_whole, parsed_json

# As for the Hub: nothing is known of how the checkpoints were written.
ATOMIC_UNIT: AtomicUnit = "commit"

_MOST = 10**15  # of a step and of a count of tokens, exclusive
_EXPECTED = "expected a table with the columns step and address, and tokens if they are known"


@dataclass(frozen=True)
class _Row:
    """A row of a list; address: absolute."""

    step: int
    address: str
    tokens: int | None


def contents(uri: str, layout: RunLayout) -> PlaceContents:
    """Return the checkpoints that a list names. Raises InputError for one that cannot be used."""
    if layout.names is not None:
        raise InputError(f"{uri}: is a list, which gives the steps itself: leave `names` out")
    rows = _pinned(_rows(uri))
    found = side_by_side(_folder, rows)
    folders = [one for one in found if isinstance(one, Folder)]
    others = [one for one in found if isinstance(one, Entry)]
    # Tokenizers are looked for beside the last checkpoint.
    run = max(folders, key=lambda one: int(one.name.split("-")[1])) if folders else uri
    return PlaceContents(folders, run, others)


def now(uri: str) -> float:
    """Return this machine's time, which nothing depends on: what is listed counts as finished."""
    return time.time()


def files_of(uris: Sequence[str]) -> list[Files]:
    """Return the files of each checkpoint, wherever it is stored."""
    return side_by_side(lambda uri: place_of(uri).files_of([uri])[0], uris)


def file_in(uri: str, name: str) -> StoredFile | None:
    """Return one file of a folder; None if it is absent."""
    return place_of(uri).file_in(uri, name)


def read(uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a file in the folder `uri`; fewer if it ends before."""
    return place_of(uri).read(uri, name, start, stop)


def verify(uri: str, file: StoredFile, content: bytes) -> None:
    """Verify the content of a small file as its own storage does."""
    place_of(uri).verify(uri, file, content)


def is_growing(folder: Folder) -> bool:
    """Return False: what is listed counts as finished."""
    return False


def _folder(row: _Row) -> Folder | Entry:
    """Return the checkpoint at a row's address, or the reason why there is none."""
    try:
        files = place_of(row.address).files_of([row.address])[0]
    except CheckpointError as error:
        return Entry(row.address, kind=NO_WEIGHTS, reason=str(error))
    if not files:
        reason = "no such folder or file, or it is empty"
        return Entry(row.address, kind=NO_WEIGHTS, reason=reason)
    return Folder(_name(row), row.address, files)


def _name(row: _Row) -> str:
    tokens = "" if row.tokens is None else f"-tokens{row.tokens}"
    return f"step-{row.step}{tokens}"


def _rows(uri: str) -> list[_Row]:
    content = content_of(uri, InputError)
    given = _from_json(uri, content) if uri.endswith(".json") else _from_csv(uri, content)
    rows = [_row(f"{uri}: {where}", one, Path(uri).parent) for where, one in given]
    twice = [step for step, count in Counter(row.step for row in rows).items() if count > 1]
    if not rows:
        raise InputError(f"{uri}: lists no checkpoint: {_EXPECTED}")
    if twice:
        raise InputError(f"{uri}: lists step {twice[0]} twice: keep one of them")
    return rows


def _from_csv(uri: str, content: bytes) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of a table with a header, each with its place in the file."""
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{uri}: is no CSV file ({first_line(error)}): {_EXPECTED}") from error
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if not {"step", "address"} <= set(header) or len(set(header)) < len(header):
        found = ", ".join(header[:4]) or "nothing"
        raise InputError(f"{uri}: has the columns {found}; {_EXPECTED}")
    found = []
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(
                f"{uri}: line {number}: has {len(row)} cells, expected {len(header)} as in the "
                "header"
            )
        cells = {key: cell.strip() for key, cell in zip(header, row, strict=True)}
        found.append((f"line {number}", {key: cell for key, cell in cells.items() if cell}))
    return found


def _from_json(uri: str, content: bytes) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the objects of a list, each with its place in the file."""
    try:
        rows = parsed_json(content)
    except ValueError as error:
        raise InputError(f"{uri}: is not valid JSON ({first_line(error)}): {_EXPECTED}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{uri}: expected a list of objects with step, address and tokens")
    objects = cast(list[dict[str, Any]], rows)
    return [(f"object {number}", row) for number, row in enumerate(objects, start=1)]


def _row(where: str, given: Mapping[str, Any], folder: Path) -> _Row:
    step, tokens = _count(where, "step", given), None
    if given.get("tokens") is not None:
        tokens = _count(where, "tokens", given)
    address = given.get("address")
    if not isinstance(address, str):
        raise InputError(f"{where}: gives no address; {_EXPECTED}")
    try:
        require_place(address)
    except ValueError as error:
        raise InputError(f"{where}: address: {error}") from error
    if is_address_list(address):
        raise InputError(f"{where}: {address} is another list: give a checkpoint's own address")
    if "://" not in address:
        address = os.path.realpath(folder / address)
    place_of(address)  # raises InputError for an unknown scheme or a secret
    return _Row(step, address, tokens)


def _count(where: str, key: str, given: Mapping[str, Any]) -> int:
    value = given.get(key)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 15:
        value = int(value)
    if not is_whole(value, most=_MOST - 1):
        raise InputError(f"{where}: has {key} {str(value)[:40]!r}, expected a whole number")
    return value


def _pinned(rows: list[_Row]) -> list[_Row]:
    """Return the rows with branches and tags on the Hub replaced by their commits."""
    commits: dict[str, dict[str, str]] = {}
    return [
        replace(row, address=_pinned_address(row.address, commits))
        if row.address.startswith("hf://")
        else row
        for row in rows
    ]


def _pinned_address(uri: str, commits: dict[str, dict[str, str]]) -> str:
    """Return an address on the Hub with its commit; commits: by ref, of repositories seen before.

    Raises InputError for a branch or tag that does not exist.
    """
    address = parse_address(uri)
    if address.is_commit:
        return uri
    repository = str(Address(address.repo, kind=address.kind))
    if repository not in commits:
        commits[repository] = _commits(repository)
    commit = commits[repository].get(address.ref or "main")
    if commit is None:
        raise InputError(f"{uri}: there is no such branch or tag: check the name after @")
    return str(address.at(commit, address.path))


def _commits(repository: str) -> dict[str, str]:
    from pipeline.checkpoints.hub_source import refs  # needs huggingface_hub

    return {ref.name: ref.commit for ref in refs(parse_address(repository))}
