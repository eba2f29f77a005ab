"""The store: every measured number of one run, in rows that no writer ever changes.

Layout, under one URI:

    zarr.json              an empty Zarr group, so that other tools find a place to begin
    versions/              what readers need to know beside the rows (see `versions`)
    packs/, large/         the rows (see `commits` and `packs`)
    published/             the same numbers as plain Zarr arrays along the steps (`trajectories`)
    aggregates/            answers that need all checkpoints (see `results`)
    _inputs/               the tokens that the rows were computed from (see `inputs`)
    _references/           the reference values that they were computed from
    _non_finite/           which weights and rows are not finite (see `non_finite`)
    trainer_log/           what transformers' Trainer logged of the run (see `trainer_log`)
    _sent.json             what experiment trackers have received (see `pipeline.trackers.send`)
    _lease/                who is writing, as advice against doing work twice (see `lease`)

Rows belong to one fingerprint variant (measure, version, parameters, input, ...; see
`fingerprint`). A changed input or parameter is another variant, with variables of whatever shape,
while readers keep what they have until `settle` shows them the new one.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from pipeline.errors import InputError
from pipeline.store.commits import Commit
from pipeline.store.fingerprint import plain_json
from pipeline.store.inputs import decode_input, decode_texts, encode_input, input_key
from pipeline.store.objects import Objects
from pipeline.store.packs import Pack, decode
from pipeline.store.probe import FOLDER as PROBES
from pipeline.store.probe import probe
from pipeline.store.sealed import DamagedError, seal, unseal
from pipeline.store.snapshots import Snapshot, rows_of
from pipeline.store.templates import Template, checked_name
from pipeline.store.version_changes import with_current, with_variant, with_verdict
from pipeline.store.versions import FOLDER as VERSIONS
from pipeline.store.versions import LAYOUT, Version, Versions
from pipeline.store.zarr_groups import ROOT

Decoded = TypeVar("Decoded")

REFERENCES = "_references"
OLD_LAYOUT = "rows/zarr.json"  # what a store of layout 1 has


class OldLayoutError(InputError):
    """A store of layout 1, which can be read, and upgraded."""


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

    @property
    def versions(self) -> Versions:
        """The versions of the store."""
        return Versions(self.objects)

    # What a coordinator calls. Each is one new version, or none where nothing changes.

    def create_or_open(self, identity: Mapping[str, Any], address: str = "") -> Version:
        """Make the store of a run, or check that the one that is there is of the same run.

        identity: JSON that all analyses kept in this store share. address: where the run is now.
        InputError, with nothing written, where the place holds something else, another run or
        another layout, or where the storage does not do what a store relies on.
        """
        version = self.require_place(identity)
        if version is None:
            probe(self.objects)
            self._check_identity(self._create(plain_json(identity), address), identity)
        return self.versions.change(lambda version: replace(version, address=address))

    def require_place(self, identity: Mapping[str, Any] | None = None) -> Version | None:
        """Return the version of the store that is here; None where one can be made.

        InputError where the place holds something else, another layout, or a store of another run.
        identity: see `create_or_open`; None where it is not known.
        """
        version = self.versions.newest()
        if version is None:
            self._refuse_what_is_no_store()
        elif identity is not None:
            self._check_identity(version, identity)
        return version

    def require_groups(self, templates: Iterable[Template], plan: bool = False) -> Version:
        """Add the groups and variants that are missing; existing rows and readers are untouched.

        A template whose variant is there must have the same variables, coordinates and dtypes
        (InputError otherwise); its definitions and attributes may be worded anew. A group without
        any row shows the variant that it is given now.

        plan: make a version in any case. Its number orders the rows that are written for it after
        all that were planned before.
        """
        wanted = list(templates)

        def change(version: Version) -> Version:
            groups = dict(version.groups)
            # Anew for each attempt: who was quicker may have written the first row of a group.
            commits = rows_of(self.objects, version)
            for template in wanted:
                groups[template.group] = with_variant(groups, template, commits, self.uri)
            return replace(version, groups=groups, id="" if plan else version.id)

        return self.versions.change(change)

    def set_verdict(self, verdict: Mapping[str, Any] | None, masked: Mapping[int, str]) -> None:
        """Keep the verdict on the run's checkpoints, None for none, and the steps that it masks.

        Rows of masked steps that are committed stay, and come back when they are masked no longer.
        """
        self.versions.change(lambda version: with_verdict(version, verdict, masked))

    def settle(
        self,
        number: int,
        verdict: Mapping[str, Any] | None,
        masked: Mapping[int, str],
        variants: Mapping[str, str],
        steps: Mapping[str, Collection[int]],
    ) -> None:
        """Enter the end of an analysis: the verdict, the masked steps, and the variants to show.

        number: of the version that planned it. Where an analysis that was planned later has ended
        already, nothing changes. steps: by group, those whose rows must be sealed by now.
        """

        def change(version: Version) -> Version:
            if version.settled > number:
                return version
            shown = with_current(version, variants, steps, self.uri)
            return replace(with_verdict(shown, verdict, masked), settled=number)

        self.versions.change(change)

    def drop(self, commits: Iterable[Commit]) -> None:
        """Show these rows to nobody any more: they are damaged, and are to be computed again."""
        keys = {commit.key for commit in commits}

        def change(version: Version) -> Version:
            rows = tuple(commit for commit in version.rows if commit.key not in keys)
            return replace(version, rows=rows, dropped=version.dropped | keys)

        self.versions.change(change)

    # Methods for all readers

    def version(self) -> Version:
        """Return the newest version. InputError where there is no store."""
        version = self.versions.newest()
        if version is None:
            if self.objects.read(OLD_LAYOUT) is not None:
                raise OldLayoutError(
                    f"{self.uri}: the store has layout 1, and can only be read: move its rows to "
                    f"layout {LAYOUT} by `ontogeny store upgrade {self.uri}`; nothing is computed"
                )
            raise InputError(
                f"{self.uri}: there is no store here: give the `store` of an analysis that ran"
            )
        return version

    def snapshot(self, version: Version | None = None) -> Snapshot:
        """Return a version (the newest), with the rows that are committed now."""
        version = version or self.version()
        return Snapshot(version, tuple(rows_of(self.objects, version)))

    def commits(self, group: str | None = None) -> list[Commit]:
        """Return all committed rows, of all variants, from one fresh listing."""
        found = self.snapshot().commits
        return [commit for commit in found if group in (None, commit.group)]

    def pack(self, commit: Commit) -> Pack:
        """Return a committed row. Raises InputError where it is gone, DamagedError."""
        content = self.objects.read(commit.key)
        if content is None:
            raise InputError(
                f"{self.uri}: {commit.key} is gone: open the store again (it may have been "
                "recomputed), or run `ontogeny store verify --repair`"
            )
        return decode(content)

    # Inputs and references, each written once

    def save_input(
        self,
        name: str,
        digest: str,
        tokens: Int[np.ndarray, "sequence position"],
        extras: Mapping[str, np.ndarray],
        attributes: Mapping[str, Any],
        texts: Mapping[int, str] | None = None,
    ) -> None:
        """Keep an input with the results; one that is there already is left as it is.

        texts: of its ids.
        """
        with suppress(InputError):
            self.load_input(name, digest)
            return
        content = encode_input(tokens, extras, attributes, texts)
        self.objects.put({input_key(name, digest): content})

    def load_input(
        self, name: str, digest: str
    ) -> tuple[Int[np.ndarray, "sequence position"], dict[str, np.ndarray], dict[str, Any]]:
        """Return an input's tokens [sequence, position], its extra arrays and its attributes."""
        return self._of_input(name, digest, decode_input)

    def load_token_texts(self, name: str, digest: str) -> dict[int, str]:
        """Return the texts of an input's ids; empty where it was saved without any."""
        return self._of_input(name, digest, decode_texts)

    def _of_input(self, name: str, digest: str, decoded: Callable[[bytes], Decoded]) -> Decoded:
        key = input_key(name, digest)
        content = self.objects.read(key)
        if content is None:
            raise InputError(f"{self.uri}: input {name!r} ({digest[:16]}) is not in the store")
        try:
            return decoded(content)
        except Exception as error:
            raise InputError(
                f"{self.uri}: {key} is damaged ({error}): run `ontogeny store verify --repair` and "
                "the analysis again, which makes it anew"
            ) from error

    def save_reference(self, group: str, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a reference value; return what is stored, which is the first that was saved."""
        with suppress(FileExistsError):
            self.objects.create(_reference_key(group, key), seal(value))
        stored = self.load_reference(group, key)
        return plain_json(value) if stored is None else stored

    def load_reference(self, group: str, key: str) -> dict[str, Any] | None:
        """Return a reference value, None where it was never saved. Raises InputError."""
        at = _reference_key(group, key)
        content = self.objects.read(at)
        try:
            return None if content is None else unseal(content)
        except DamagedError as error:
            raise InputError(
                f"{self.uri}: {at} {error}: run `ontogeny store verify --repair` and the analysis "
                "again, which computes it anew"
            ) from error

    def _check_identity(self, version: Version, identity: Mapping[str, Any]) -> None:
        there, wanted = version.identity, plain_json(identity)
        if there != wanted:
            key = next(k for k in (*wanted, *there) if wanted.get(k) != there.get(k))
            what = " (the digest of config.json)" if key == "architecture" else ""
            raise InputError(
                f"{self.uri}: the store was made by another analysis: {key} is "
                f"{there.get(key)!r} there, expected {wanted.get(key)!r}{what}; choose another "
                "store"
            )

    def _create(self, identity: Mapping[str, Any], address: str) -> Version:
        try:
            self.objects.put({"zarr.json": json.dumps(ROOT).encode()})
            return self.versions.create(Version(identity, address=address))
        except FileNotFoundError as error:
            raise InputError(f"{self.uri}: there is no such bucket: create it first") from error

    def _refuse_what_is_no_store(self) -> None:
        if self.objects.is_local and Path(self.uri).is_file():
            raise InputError(f"{self.uri}: is a file: give a folder for the store")
        if self.objects.read(OLD_LAYOUT) is not None:
            self.version()  # says what to do
        ours = (f"{VERSIONS}/", f"{PROBES}/", "zarr.json")  # of another process that makes it now
        foreign = [key for key in self.objects.list() if not key.startswith(ours)]
        if foreign:
            raise InputError(
                f"{self.uri}: expected a store or an empty folder, found {foreign[0]!r} in it: "
                "choose another store"
            )


def _reference_key(group: str, key: str) -> str:
    return f"{REFERENCES}/{checked_name(group, 'group')}/{checked_name(key, 'reference')}.json"
