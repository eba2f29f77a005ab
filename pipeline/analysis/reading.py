"""A worker's reading of checkpoints: whole, or only the weights that the measures read."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.analysis.parts import known_digest, remember_digest
from pipeline.analysis.transient import TRANSIENT
from pipeline.checkpoints.fetch import Copy
from pipeline.checkpoints.fetch_facts import identity_of
from pipeline.checkpoints.floats import NonFiniteError, non_finite, why_non_finite
from pipeline.models.resident import Resident
from pipeline.models.some_weights import SomeWeights, read_some
from pipeline.models.weights import Weights, read_weights
from pipeline.outside import reading
from pipeline.store import Store
from pipeline.store import non_finite as non_finite_store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """The weights of a checkpoint, of which some may be on the meta device, not read.

    digests: by group, of the bytes that its rows follow from. in_part: the groups for which that is
    not the digest of the whole checkpoint.
    """

    weights: Weights
    digests: Mapping[str, str]
    in_part: frozenset[str] = frozenset()


class Reader:
    """Reads checkpoints for a resident model, and checks that they are finite floating point.

    parameters: by group, the names of those that its measure reads; None for the whole model.
    keeps_non_finite: whether weights that are not finite are returned; they are recorded in the
    store in any case.
    """

    def __init__(
        self,
        resident: Resident,
        store: Store,
        parameters: Mapping[str, Collection[str] | None],
        keeps_non_finite: bool,
    ) -> None:
        self._resident, self._store, self._parameters = resident, store, parameters
        self._keeps_non_finite = keeps_non_finite
        self._non_finite = non_finite_store.known_weights(store)

    def reads_all(self, groups: Collection[str]) -> bool:
        """Return whether one of the groups needs the whole checkpoint."""
        return any(self._parameters[name] is None for name in groups)

    def known_digests(self, copy: Copy, groups: Collection[str]) -> dict[str, str]:
        """Return by group the digest that its row would have, if that is known.

        Where a group needs the whole checkpoint, that is read or downloaded for its digest. Raises
        NonFiniteError for weights that are known not to be finite, unless these are kept.
        """
        if self.reads_all(groups):
            found = dict.fromkeys(groups, str(copy.checkpoint.digest))
        elif (digest := copy.known_digest) is not None:
            found = dict.fromkeys(groups, digest)
        else:
            identity = identity_of(copy.listed)
            each = {name: known_digest(identity, self._of(name)) for name in groups}
            found = {name: digest for name, digest in each.items() if digest is not None}
        self._refuse_known(found.values())
        return found

    def read(self, copy: Copy, groups: Collection[str]) -> Loaded:
        """Read what some groups need. Raises CheckpointError; see also `known_digests`."""
        if not self.reads_all(groups) and (loaded := self._read_some(copy, groups)) is not None:
            return loaded
        weights = self._read_whole(copy)
        # The digest is that of the bytes that were read.
        return Loaded(weights, dict.fromkeys(groups, str(copy.checkpoint.digest)))

    def _read_whole(self, copy: Copy) -> Weights:
        with reading(copy.checkpoint.uri, passing=TRANSIENT):
            config = copy.config
            weights = copy.read(lambda parts: read_weights(parts, config))
            used = self._resident.used(weights, copy.checkpoint.uri, config)
        if found := non_finite(used):
            self._record({str(copy.checkpoint.digest): why_non_finite(found)})
        return weights

    def _read_some(self, copy: Copy, groups: Collection[str]) -> Loaded | None:
        """Read the weights of some groups; None if they cannot be told from the others."""
        uri, config = copy.listed.uri, copy.config
        wanted = {name for group in groups for name in self._of(group)}

        def choose(described: Weights) -> set[str] | None:
            # Before anything is read: a damaged header may state tensors of any size.
            self._resident.check(described, uri, config)
            return self._resident.sources(described, wanted)

        with reading(uri, passing=TRANSIENT):
            found = copy.read_ranges(lambda files: read_some(files, uri, choose))
        if found is None or found[0] is None:
            return None
        some, identity = found[0], found[1]
        _log.info(
            "%s: read %d of %d tensors, %d bytes",
            uri, len(some.contents), len(some.weights), sum(map(len, some.contents.values())),
        )  # fmt: skip
        names = {group: self._sources(some, group) for group in groups}
        # That of the files as they were read, unless they have changed since.
        whole = copy.known_digest if identity == identity_of(copy.listed) else None
        digests = {group: whole or some.digest(names[group]) for group in groups}
        for group, digest in digests.items():
            if whole is None:
                remember_digest(identity, self._of(group), digest)
        used = self._resident.used(some.weights, uri, config)
        self._record(
            {
                digests[group]: why_non_finite(found)
                for group in groups
                if (found := non_finite({n: used[n] for n in used if n in names[group]}))
            }
        )
        return Loaded(some.weights, digests, frozenset(groups if whole is None else ()))

    def _of(self, group: str) -> Collection[str]:
        return self._parameters[group] or ()

    def _sources(self, some: SomeWeights, group: str) -> set[str]:
        return self._resident.sources(some.weights, self._of(group)) or set()

    def _record(self, found: Mapping[str, str]) -> None:
        """Record by digest why weights are not finite, and raise NonFiniteError unless kept."""
        for digest, why in found.items():
            non_finite_store.keep_weights(self._store, digest, why)
            self._non_finite[digest] = why
        self._refuse_known(found)

    def _refuse_known(self, digests: Collection[str]) -> None:
        known = [self._non_finite[one] for one in digests if one in self._non_finite]
        if known and not self._keeps_non_finite:
            raise NonFiniteError(known[0])
