"""The store: every measured number of one run, in rows that exist when their marker does.

Layout, under one URI:

    rows/zarr.json                     Zarr v3 group: layout version and the run's identity
    rows/<group>/<variant>/<variable>    one chunk per row, in order of arrival
    _commits/<group>/<marker>          what is committed (see `markers`)
    _inputs/, _references/             the tokens and reference values it was computed from
    _non_finite/                       which weights and rows are not finite (see `non_finite`)
    _audit.json                        the verdict on the run's checkpoints, where one was asked for
    trajectories/                      the same numbers, contiguous along the steps

Arrays belong to one fingerprint variant (measure, version, parameters, input, ...; see
`fingerprint`). A changed input or parameter is another variant: it gets arrays of its own, of
whatever shape, while readers keep what they have until `set_current` shows them the new ones.

One coordinator calls what changes metadata (`create_or_open`, `require_groups`, `reserve`,
`set_current`); workers call `write`, each for rows that were reserved for it. Metadata is
consolidated after each change, before any row is written that depends on it; hence a reader that
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
    """What a store holds arrays for: by group, a Zarr group of variants, one of them current.

    masked: the steps whose rows no reader is shown, each with the reason. not_finite: the steps
    that have numbers which are not finite because the model's are, with the variables.
    """

    identity: Mapping[str, Any]
    groups: Mapping[str, Any]
    masked: Mapping[int, str]
    not_finite: Mapping[int, str]


@dataclass(frozen=True)
class Store:
    """One store. It holds its URI alone: send it to any process, which opens it for itself."""

    uri: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", Objects(self.uri).uri)

    @property
    def objects(self) -> Objects:
        """The objects under the store's URI."""
        return Objects(self.uri)

    # What the coordinator calls

    def create_or_open(self, identity: Mapping[str, Any]) -> None:
        """Make the store of a run, or check that the one that is there is of the same run.

        identity: JSON that all analyses kept in this store share. InputError, with nothing
        written, where the place holds something else, another run or another layout.
        """
        wanted = plain_json(identity)
        if self.objects.read(f"{ROWS}/zarr.json") is None:
            self._refuse_foreign_files()
            self._create({"layout": LAYOUT, "identity": wanted})
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
        """Make the groups and arrays that are missing; existing rows and readers are untouched.

        A template whose variant is there must have the same variables, coordinates and dtypes
        (InputError otherwise); its definitions and attributes may be worded anew.
        """
        root = self._root()
        with access(self.uri):
            for template in templates:
                layout.require_arrays(root, template, self.uri)
        self._consolidate()

    def set_verdict(self, verdict: Mapping[str, Any] | None, masked: Mapping[int, str]) -> None:
        """Keep the verdict on the run's checkpoints, None for none, and the steps that it masks.

        Rows of masked steps that are committed stay, and come back when they are masked no longer.
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
        """Keep which steps have numbers that are not finite because the model's are, in words."""
        if found == self.catalogue().not_finite:
            return
        with access(self.uri):
            said = {str(step): what for step, what in sorted(found.items())}
            self._root().update_attributes({"not_finite": said})
        self._consolidate()

    def reserve(self, group: str, variant: str, count: int) -> range:
        """`count` fresh rows, beyond any that were ever reserved in this variant.

        A worker of a killed run may still be writing its row: no row is handed out twice.
        """
        if count == 0:
            return range(0)
        arrays = layout.arrays_of(self._variant(group, variant))
        # A kill between two resizes leaves lengths that differ; the longest one counts.
        start = max(array.shape[0] for array in arrays.values())
        with access(self.uri):
            for array in arrays.values():
                array.resize((start + count, *array.shape[1:]))
        self._consolidate()
        return range(start, start + count)

    def set_current(self, group: str, variant: str) -> None:
        """Say which variant of a group readers see; a new group shows the first that it was given.

        While a changed analysis is computed, readers may be left with the variant that is complete.
        """
        self._variant(group, variant)
        with access(self.uri):
            found = self._root().require_group(group)
            if found.attrs["current"] == variant:
                return
            found.update_attributes({"current": variant})
        self._consolidate()

    # What workers call

    def write(self, group: str, row: Row, values: Values) -> Commit:
        """Write a row's chunks, then its marker. `values`: an array per variable, without "step".

        A row that is committed with the same values is left as it is (a retry may not know that
        its first attempt succeeded). ValueError where the values do not fit the group.
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
                arrays[name][row.row : row.row + 1] = value[np.newaxis]
        try:
            self.objects.create(commit.key, canonical_json(marker).encode())
        except FileExistsError:
            self._check_same_row(commit, self.marker(commit), marker)
        return commit

    # What everyone may read

    def catalogue(self) -> Catalogue:
        """The run's identity and its groups: one request. InputError where there is no store.

        List the markers before this, never after (see the module's docstring).
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
            # What a kill left half-made is no group yet: it has no current variant.
            groups = {name: g for name, g in sorted(root.groups()) if "current" in g.attrs}
        masked, not_finite = _by_step(root, "masked"), _by_step(root, "not_finite")
        return Catalogue(plain_json(root.attrs["identity"]), groups, masked, not_finite)

    def commits(self, group: str | None = None) -> list[Commit]:
        """All committed rows, of all variants, from one fresh listing."""
        folder = COMMITS if group is None else f"{COMMITS}/{group}"
        return [commit for key in self.objects.list(folder) if (commit := parse(key))]

    def marker(self, commit: Commit) -> dict[str, Any]:
        """The content of a marker: uri, digest, tokens_seen, details, checksums."""
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
        """Keep an input with the results; one that is there already is left as it is."""
        arrays = {f"extra.{key}": value for key, value in extras.items()}
        arrays |= {"tokens": tokens, "attributes": np.array(canonical_json(attributes))}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        with suppress(FileExistsError):
            self.objects.create(_input_key(name, digest), buffer.getvalue())

    def load_input(
        self, name: str, digest: str
    ) -> tuple[Int[np.ndarray, "sequence position"], dict[str, np.ndarray], dict[str, Any]]:
        """An input's tokens [sequence, position], its extra arrays and its attributes."""
        content = self.objects.read(_input_key(name, digest))
        if content is None:
            raise InputError(f"{self.uri}: input {name!r} ({digest[:16]}) is not in the store")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            extras = {k[6:]: arrays[k] for k in arrays.files if k.startswith("extra.")}
            return arrays["tokens"], extras, json.loads(arrays["attributes"].item())

    def save_reference(self, group: str, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a reference value; returns what is stored, which is the first that was saved."""
        with suppress(FileExistsError):
            self.objects.create(_reference_key(group, key), canonical_json(value).encode())
        stored = self.load_reference(group, key)
        return plain_json(value) if stored is None else stored

    def load_reference(self, group: str, key: str) -> dict[str, Any] | None:
        """A reference value, None where it was never saved."""
        content = self.objects.read(_reference_key(group, key))
        return None if content is None else json.loads(content)

    def _create(self, attributes: dict[str, Any]) -> None:
        """Make the Zarr group of the rows, unless another process is quicker: it may be on."""
        group = GroupMetadata(attributes=attributes).to_buffer_dict(default_buffer_prototype())
        try:
            self.objects.create(f"{ROWS}/zarr.json", group["zarr.json"].to_bytes())
        except FileExistsError:
            return
        except FileNotFoundError as error:
            raise InputError(f"{self.uri}: there is no such bucket: create it first") from error

    def _root(self) -> zarr.Group:
        """The rows as they are now, not as they were last consolidated: for changing them."""
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
