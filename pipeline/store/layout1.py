"""Stores of layout 1, which are only read, and can be moved to the present layout.

rows/<group>/<variant>/<variable>    Zarr arrays with one chunk per row, in order of arrival
_commits/<group>/<step>.<row>.<variant>-<weights>    a marker for each complete row (JSON)
_audit.json                          the verdict on the run's checkpoints
trajectories/                        the same numbers along the steps: not read here
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from pipeline.errors import InputError
from pipeline.outside import parsed_json
from pipeline.store.access import access
from pipeline.store.lazy import Complete
from pipeline.store.objects import Objects
from pipeline.store.packs import Row, checksum
from pipeline.store.templates import LABELS

ROOT = "rows/zarr.json"
# "rows" last: as long as it is there, an upgrade that was killed can be told.
FOLDERS = ("_commits", "trajectories", "_audit.json", "_lease", "rows")
_MARKER = re.compile(
    r"_commits/(?P<group>[^/]+)/(?P<step>\d+)\.(?P<row>\d+)\.(?P<fingerprint>[0-9a-f]+-[0-9a-f]+)"
)


@dataclass(frozen=True, order=True)
class OldCommit:
    """One committed row, as the name of its marker tells."""

    group: str
    step: int
    row: int
    fingerprint: str

    @property
    def variant(self) -> str:
        """The part of the fingerprint that rows shown side by side have in common."""
        return self.fingerprint.partition("-")[0]

    @property
    def key(self) -> str:
        """The key of the marker."""
        return f"_commits/{self.group}/{self.step}.{self.row}.{self.fingerprint}"


class OldStore:
    """A store of layout 1."""

    def __init__(self, uri: str) -> None:
        self.objects = Objects(uri)
        markers = self.objects.list("_commits")  # before the metadata, which then has their rows
        with access(self.objects.uri):
            try:
                folder = Complete(self.objects.zarr("rows", read_only=True))
                self._root = zarr.open_group(folder, mode="r", zarr_format=3)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self.objects.uri}: {ROOT} is damaged ({error}): put it back from a copy, or "
                    "analyse again into another store"
                ) from error
        if (layout := self._root.attrs.get("layout")) != 1:
            raise InputError(
                f"{self.objects.uri}: the store has layout {layout}, which this version of "
                "ontogeny does not know: use the version that wrote it"
            )
        self.commits = sorted(commit for key in markers if (commit := _parse(key)) is not None)

    @property
    def identity(self) -> dict[str, Any]:
        """The JSON that all analyses of the store share: "architecture" and "checkpoints"."""
        return dict(self._root.attrs["identity"])  # type: ignore[arg-type]

    def steps(self, name: str) -> dict[int, str]:
        """Return "masked" or "not_finite": by step, why."""
        said: Any = self._root.attrs.get(name, {})
        return {int(step): str(why) for step, why in said.items()}

    @property
    def groups(self) -> dict[str, Any]:
        """By name, what a version of the present layout has of a group."""
        found = {}
        for name, group in sorted(self._root.groups()):
            if "current" in group.attrs:  # else a kill left it half-made
                templates = {v: one.attrs["template"] for v, one in group.groups()}
                found[name] = {"current": group.attrs["current"], "variants": templates}
        return found

    def latest(self, group: str, variant: str) -> list[OldCommit]:
        """Return the rows of a variant that stand, in order of step."""
        found = {
            commit.step: commit
            for commit in self.commits
            if (commit.group, commit.variant) == (group, variant)
        }
        return list(found.values())

    def array(self, group: str, variant: str, name: str) -> zarr.Array:
        """Return a Zarr array, with a row for each storage row."""
        found = self._root[f"{group}/{variant}/{name}"]
        assert isinstance(found, zarr.Array)
        return found

    def marker(self, commit: OldCommit) -> dict[str, Any]:
        """Return the content of a marker. Raises ValueError where it is damaged."""
        return parsed_json(self.objects.read(commit.key) or b"")

    def row(self, commit: OldCommit) -> tuple[Row, dict[str, np.ndarray]]:
        """Return a row and its values, checked against the marker. Raises ValueError."""
        marker = self.marker(commit)
        values = {}
        for name, wanted in marker["checksums"].items():
            value = np.asarray(self.array(commit.group, commit.variant, name)[commit.row])
            if (checksum(value) if value.dtype.kind in "iuf" else _text(value)) != wanted:
                raise ValueError(f"{name} is not what was committed")
            if name not in LABELS:
                values[name] = value
        details = dict(marker["details"])
        if "reference" in details:
            details["reference_values"] = details.pop("reference")
        row = Row(
            commit.step, commit.fingerprint, marker["digest"], marker["uri"],
            marker["tokens_seen"], details,
        )  # fmt: skip
        return row, values


class OldArray(BackendArray):
    """One array of a store of layout 1 in order of step, for xarray."""

    def __init__(
        self, array: zarr.Array, rows: Sequence[int], dtype: np.dtype | type | str
    ) -> None:
        self._array, self._rows = array, np.array(rows)
        self.shape, self.dtype = (len(rows), *array.shape[1:]), np.dtype(dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        rows, *rest = key
        parts = [
            np.arange(size)[part] if isinstance(part, slice) else part
            for part, size in zip(rest, self.shape[1:], strict=True)
        ]
        try:
            values = self._array.oindex[(self._rows[rows], *parts)]
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{self._array.store_path} is damaged ({error}): analyse again into another store"
            ) from error
        return np.asarray(values, dtype=self.dtype)


def is_old(objects: Objects) -> bool:
    """Tell whether there is a store of layout 1."""
    return objects.read(ROOT) is not None


def rows_of(store: OldStore) -> Iterator[OldCommit]:
    """Yield the rows that stand, of all variants."""
    for group, entry in store.groups.items():
        for variant in entry["variants"]:
            yield from store.latest(group, variant)


def _parse(key: str) -> OldCommit | None:
    match = _MARKER.fullmatch(key)
    if match is None:
        return None
    return OldCommit(match["group"], int(match["step"]), int(match["row"]), match["fingerprint"])


def _text(value: np.ndarray) -> str:
    return hashlib.sha256("\0".join(map(str, value.ravel())).encode()).hexdigest()
