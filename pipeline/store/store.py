"""The store: every measured number of one run, in rows that are committed by their markers.

Layout, under one URI:

    rows/zarr.json                     Zarr v3 group: layout version and the run's identity
    rows/<group>/<variant>/<variable>    one chunk per row, in order of arrival
    _commits/<group>/<marker>          the committed rows (see `markers`)
    _inputs/, _references/             the tokens and reference values of the analysis
    _non_finite/                       weights and rows that are not finite (see `non_finite`)
    _audit.json                        the result of the audit, if the run was audited
    trajectories/                      the same numbers, contiguous along the steps

Arrays belong to one fingerprint variant (measure, version, parameters, input, ...; see
`fingerprint`). A changed input or parameter makes another variant: it gets its own arrays, of any
shape, while readers see the old ones until `set_current` points to the new ones.

One coordinator calls the methods that change metadata (`create_or_open`, `require_groups`,
`reserve`, `set_current`); workers call `write`, each for rows that were reserved for it. Metadata
is consolidated after each change, before any row is written that depends on it; hence a reader that
lists the markers FIRST finds every committed row within the consolidated shapes.
"""

import io
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import GroupMetadata

from pipeline.errors import InputError
from pipeline.schema import Values
from pipeline.store import layout
from pipeline.store.fingerprint import canonical_json, plain_json
from pipeline.store.layout import Template, checked_name
from pipeline.store.lazy import Complete
from pipeline.store.markers import FOLDER as COMMITS
from pipeline.store.markers import Commit, latest, parse
from pipeline.store.objects import Objects, access
from pipeline.store.rows import ROWS, Row, arrays_for, checked, checksum, rounding

__all__ = ["LAYOUT", "Catalogue", "Commit", "Row", "Store", "Template", "latest"]

LAYOUT = 1
VERDICT = "_audit.json"


@dataclass(frozen=True)
class Catalogue:
    """The content of a store: for each group, a Zarr group of variants, one of them current.

    masked: the steps whose rows are hidden from readers, each with the reason. not_finite: the
    steps with numbers that are not finite because the model's are not, with the variables.
    """

    identity: Mapping[str, Any]
    groups: Mapping[str, Any]
    masked: Mapping[int, str]
    not_finite: Mapping[int, str]


@dataclass(frozen=True)
class Store:
    """One store. It holds its URI only, so it can be sent to any process, which opens it itself."""

    uri: str

    def __post_init__(self) -> None:
        # Normalised, so that equal stores have equal URIs: the dataclass is frozen.
        object.__setattr__(self, "uri", Objects(self.uri).uri)

    @property
    def objects(self) -> Objects:
        """The objects under the store's URI."""
        return Objects(self.uri)

    # Methods for the coordinator

    def create_or_open(self, identity: Mapping[str, Any]) -> None:
        """Create the store of a run, or check that the existing store is of the same run.

        identity: JSON that all analyses in this store share. Raises InputError, with nothing
        written, where the URI holds something else, another run or another layout.
        """
        wanted = plain_json(identity)
        if self.objects.read(f"{ROWS}/zarr.json") is None:
            self._refuse_foreign_files()
            self._create({"layout": LAYOUT, "identity": wanted})
        # Read back also after creating it: another process may have created it first.
        found = self.catalogue().identity
        if found != wanted:
            key = next(k for k in (*wanted, *found) if wanted.get(k) != found.get(k))
            what = " (the digest of config.json)" if key == "architecture" else ""
            raise InputError(
                f"{self.uri}: the store was made by another analysis: {key} is "
                f"{found.get(key)!r} there, expected {wanted.get(key)!r}{what}; choose another "
                "store"
            )

    def require_groups(self, templates: Iterable[Template]) -> None:
        """Create the missing groups and arrays; existing rows and readers are not affected.

        Raises InputError where a variant exists with other variables, coordinates or dtypes;
        definitions and attributes of an existing variant may change.
        """
        root = self._root()
        with access(self.uri):
            for template in templates:
                layout.require_arrays(root, template, self.uri)
        self._consolidate()

    def set_verdict(self, verdict: Mapping[str, Any] | None, masked: Mapping[int, str]) -> None:
        """Store the audit's verdict on the run (None: no audit) and the steps that it masks.

        Committed rows of masked steps are kept, and are visible again once their step is unmasked.
        """
        if verdict is None:
            self.objects.delete(VERDICT)
        else:
            self.objects.replace(VERDICT, canonical_json(verdict).encode())
        if masked == self.catalogue().masked:
            return
        with access(self.uri):
            reasons = {str(step): reason for step, reason in sorted(masked.items())}
            self._root().update_attributes({"masked": reasons})
        self._consolidate()

    def set_not_finite(self, found: Mapping[int, str]) -> None:
        """Store, by step, which numbers are not finite because the model's are not."""
        if found == self.catalogue().not_finite:
            return
        with access(self.uri):
            said = {str(step): what for step, what in sorted(found.items())}
            self._root().update_attributes({"not_finite": said})
        self._consolidate()

    def reserve(self, group: str, variant: str, count: int) -> range:
        """Reserve `count` rows, beyond any that were ever reserved in this variant; return them.

        No row is reserved twice: a worker of a killed run may still be writing its own.
        """
        if count == 0:
            return range(0)
        arrays = layout.arrays_of(self._variant(group, variant))
        # A process that is killed between two resizes leaves different lengths: take the longest.
        start = max(array.shape[0] for array in arrays.values())
        with access(self.uri):
            for array in arrays.values():
                array.resize((start + count, *array.shape[1:]))
        self._consolidate()
        return range(start, start + count)

    def set_current(self, group: str, variant: str) -> None:
        """Set the variant of a group that readers see. A new group starts with its first variant.

        While a changed analysis is computed, readers may keep the variant that is complete.
        """
        self._variant(group, variant)
        with access(self.uri):
            found = self._root().require_group(group)
            if found.attrs["current"] == variant:
                return
            found.update_attributes({"current": variant})
        self._consolidate()

    # Methods for workers

    def write(self, group: str, row: Row, values: Values) -> Commit:
        """Write a row's chunks, then its marker. `values`: an array per variable, without "step".

        A row that is committed with the same values is left unchanged (a retry may not know that
        its first attempt succeeded). Raises ValueError where the values do not fit the group, or
        the row is committed with other values.
        """
        commit = Commit(group, row.step, row.row, row.fingerprint)
        with access(self.uri):
            arrays = arrays_for(self.uri, group, commit.variant, row.row)
        fitted = checked(f"group {group!r}, step {row.step}", arrays, values)
        content = {**fitted, **row.arrays()}
        marker = {
            "uri": row.uri,
            "digest": row.digest,
            "tokens_seen": row.tokens_seen,
            "details": row.details,
            "rounding": rounding(fitted, values),
            "checksums": {name: checksum(value) for name, value in content.items()},
        }
        if (found := self.objects.read(commit.key)) is not None:
            self._check_same_row(commit, json.loads(found), marker)
            return commit
        with access(self.uri):
            for name, value in content.items():
                # A slice of one row, because it writes exactly one chunk, whole.
                arrays[name][row.row : row.row + 1] = value[np.newaxis]
        try:
            self.objects.create(commit.key, canonical_json(marker).encode())
        except FileExistsError:  # another attempt at this row was faster
            self._check_same_row(commit, self.marker(commit), marker)
        return commit

    # Methods for all readers

    def catalogue(self) -> Catalogue:
        """Read the run's identity and its groups, in one request.

        List the markers before this, never after (see the module's docstring). Raises InputError
        where there is no store, or one that this version cannot read.
        """
        try:
            with access(self.uri):
                folder = Complete(self.objects.zarr(ROWS, read_only=True))
                root = zarr.open_group(folder, mode="r", zarr_format=3)
        except FileNotFoundError:
            raise InputError(
                f"{self.uri}: there is no store here: give the `store` of an analysis that ran"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.uri}: {ROWS}/zarr.json is damaged ({error}): analyse again into another "
                "store, or put this file back from a copy"
            ) from error
        if (found := root.attrs.get("layout")) != LAYOUT:
            raise InputError(
                f"{self.uri}: the store has layout {found}, this version reads layout {LAYOUT}: "
                "use the version that wrote it, or analyse again into another store"
            )
        groups: dict[str, Any] = {}
        if root.metadata.consolidated_metadata is not None:
            # A group without a current variant was left incomplete by a process that was killed.
            groups = {name: g for name, g in sorted(root.groups()) if "current" in g.attrs}
        masked, not_finite = _by_step(root, "masked"), _by_step(root, "not_finite")
        return Catalogue(plain_json(root.attrs["identity"]), groups, masked, not_finite)

    def commits(self, group: str | None = None) -> list[Commit]:
        """List all committed rows of a group, or of the store, of all variants."""
        folder = COMMITS if group is None else f"{COMMITS}/{group}"
        return [commit for key in self.objects.list(folder) if (commit := parse(key))]

    def marker(self, commit: Commit) -> dict[str, Any]:
        """Read a marker: uri, digest, tokens_seen, details, rounding, checksums.

        Raises InputError where the marker no longer exists.
        """
        content = self.objects.read(commit.key)
        if content is None:
            raise InputError(f"{self.uri}: the marker {commit.key} is gone: run the analysis again")
        return json.loads(content)

    # Inputs and references, each written once

    def save_input(
        self,
        name: str,
        digest: str,
        tokens: Int[np.ndarray, "sequence position"],
        extras: Mapping[str, np.ndarray],
        attributes: Mapping[str, Any],
    ) -> None:
        """Store an input beside the results, unless it is stored already."""
        arrays = {f"extra.{key}": value for key, value in extras.items()}
        arrays |= {"tokens": tokens, "attributes": np.array(canonical_json(attributes))}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        # The digest is part of the key: an existing object has the same content.
        with suppress(FileExistsError):
            self.objects.create(_input_key(name, digest), buffer.getvalue())

    def load_input(
        self, name: str, digest: str
    ) -> tuple[Int[np.ndarray, "sequence position"], dict[str, np.ndarray], dict[str, Any]]:
        """Read an input's tokens [sequence, position], its extra arrays and its attributes.

        Raises InputError where the input is not in the store.
        """
        content = self.objects.read(_input_key(name, digest))
        if content is None:
            raise InputError(f"{self.uri}: input {name!r} ({digest[:16]}) is not in the store")
        # No pickles: a store may come from anywhere, and unpickling runs code.
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            extras = {k[6:]: arrays[k] for k in arrays.files if k.startswith("extra.")}
            return arrays["tokens"], extras, json.loads(arrays["attributes"].item())

    def save_reference(self, group: str, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Store a reference value; return the stored one, which is the first that was saved."""
        with suppress(FileExistsError):
            self.objects.create(_reference_key(group, key), canonical_json(value).encode())
        stored = self.load_reference(group, key)
        return plain_json(value) if stored is None else stored

    def load_reference(self, group: str, key: str) -> dict[str, Any] | None:
        """Read a reference value; None where it was never saved."""
        content = self.objects.read(_reference_key(group, key))
        return None if content is None else json.loads(content)

    def _create(self, attributes: dict[str, Any]) -> None:
        """Create the Zarr group of the rows, unless another process creates it first.

        Its metadata are written directly, because zarr-python does not create groups atomically.
        """
        group = GroupMetadata(attributes=attributes).to_buffer_dict(default_buffer_prototype())
        try:
            self.objects.create(f"{ROWS}/zarr.json", group["zarr.json"].to_bytes())
        except FileExistsError:
            return
        except FileNotFoundError as error:
            raise InputError(f"{self.uri}: there is no such bucket: create it first") from error

    def _root(self) -> zarr.Group:
        """Open the group of rows for changes, with its current instead of consolidated metadata."""
        self.catalogue()
        with access(self.uri):
            folder = self.objects.zarr(ROWS)
            return zarr.open_group(folder, mode="r+", use_consolidated=False, zarr_format=3)

    def _variant(self, group: str, variant: str) -> zarr.Group:
        found = self._root().get(f"{group}/{variant}")
        if not isinstance(found, zarr.Group):
            raise ValueError(
                f"variant {variant} of group {group!r} was not prepared: call require_groups()"
            )
        return found

    def _consolidate(self) -> None:
        with access(self.uri):
            layout.consolidate(self.objects.zarr(ROWS))

    def _refuse_foreign_files(self) -> None:
        if self.objects.is_local and Path(self.uri).is_file():
            raise InputError(f"{self.uri}: is a file: give a folder for the store")
        if found := self.objects.list():
            raise InputError(
                f"{self.uri}: expected a store or an empty folder, found {found[0]!r} in it: "
                "choose another store"
            )

    def _check_same_row(self, commit: Commit, there: Any, ours: dict[str, Any]) -> None:
        if there["checksums"] != ours["checksums"]:
            raise ValueError(
                f"{self.uri}: row {commit.row} of {commit.group!r} (step {commit.step}) was "
                "committed with other values: two workers had the same row, and readers keep the "
                "first one's; reserve a row for each attempt"
            )


def _by_step(root: zarr.Group, name: str) -> dict[int, str]:
    said: Any = root.attrs.get(name, {})
    return {int(step): str(what) for step, what in said.items()}


def _input_key(name: str, digest: str) -> str:
    return f"_inputs/{checked_name(name, 'input')}.{digest[:16]}.npz"


def _reference_key(group: str, key: str) -> str:
    return f"_references/{checked_name(group, 'group')}/{checked_name(key, 'reference')}.json"
