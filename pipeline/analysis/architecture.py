"""The one architecture of an analysis, and the checkpoints that have another one or none."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.configs import read_config
from pipeline.checkpoints.floats import as_trained
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder
from pipeline.checkpoints.side_by_side import side_by_side
from pipeline.errors import CheckpointError, InputError
from pipeline.models.architecture import read_architecture
from pipeline.models.meaning import Meaning, grouped, meanings_of, usual_group
from pipeline.outside import reading
from pipeline.store import Store
from pipeline.store.fingerprint import digest_of

_MOST_TRIED = 16  # checkpoints, of which one has a config that transformers reads


@dataclass(frozen=True)
class Architecture:
    """The architecture that the checkpoints of an analysis share.

    source: the checkpoint whose config.json the model is built from: the first one with the config
    of the store, else with the most common one. digest: of that config; it identifies the store.
    failed: the steps whose config is missing, truncated or another model's, each with the reason.
    meanings: of the other steps' configs.
    """

    source: Checkpoint
    digest: str
    failed: Mapping[int, str]
    meanings: Mapping[int, Meaning]

    def too_short(self, longest: int) -> dict[int, str]:
        """Return the steps whose config allows fewer positions than the longest input has.

        Each with the reason. (The source is not among them: its own limit is checked when the
        inputs are made.)
        """
        allowed = self.meanings[self.source.step].positions
        return {
            step: f"step {step}: its config.json has {key} = {most}, expected at least {longest}, "
            "the length of the longest input: shorten the input, or leave the step out"
            for step, meaning in self.meanings.items()
            for key, most in meaning.positions.items()
            if most != allowed.get(key) and isinstance(most, int) and most < longest
        }


def architecture_of(
    checkpoints: Sequence[Checkpoint],
    listed: Sequence[Checkpoint],
    store: Store,
    trusted: bool = False,
) -> Architecture:
    """Compare the configs of an analysis's checkpoints by the models that they describe.

    The model is that of the store, where there is one; else that of most checkpoints; in a tie,
    that of the last one. listed: all checkpoints of the run, among which the store's config is
    searched. trusted: whether code that comes with the checkpoints may run. Raises InputError where
    no config can be read.
    """
    configs, failed = _read(checkpoints)
    if not configs:
        more = f" (and {len(failed) - 1} more such checkpoints)" if len(failed) > 1 else ""
        raise InputError(next(iter(failed.values())) + more)
    known = _stored_digest(store)
    former = None if known is None else _config_of(known, configs, checkpoints, listed)
    # In one call, so that equal configs, that of the store included, become one object.
    *found, last = meanings_of([*configs.values(), former or {}], trusted)
    meanings = dict(zip(configs, found, strict=True))
    chosen = last if former and any(_same_by_id(found, last).values()) else _usual(found)
    is_same = _same_by_id(found, chosen)
    # Of checkpoints with another model only the reason is kept.
    kept = {one: meaning for one, meaning in meanings.items() if is_same[id(meaning)]}
    source = _source(kept, chosen if chosen is last else None)
    failed |= {
        one: f"{one.uri}/config.json has {meaning.difference(kept[source])} as in {source.uri}: "
        "restore it, or analyse this step into a store of its own"
        for one, meaning in meanings.items()
        if one not in kept
    }
    return Architecture(
        source,
        digest=_digest(configs[source]) if known is None or chosen is not last else known,
        failed={one.step: f"step {one.step}: {reason}" for one, reason in sorted(failed.items())},
        meanings={one.step: meaning for one, meaning in kept.items()},
    )


def _read(
    checkpoints: Iterable[Checkpoint], progress: bool = False
) -> tuple[dict[Checkpoint, dict[str, Any]], dict[Checkpoint, str]]:
    """Read the config of each checkpoint; return the configs, and the reasons of failures.

    progress: see `identifying`.
    """

    def attempt(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, Any] | str]:
        try:
            with reading(f"{checkpoint.uri}/config.json"):
                return checkpoint, as_trained(
                    read_config(checkpoint.uri, checkpoint.files, progress)
                )
        except (InputError, CheckpointError) as error:
            return checkpoint, str(error)

    # Threads, because reading from S3 or the Hub waits for the network.
    results = side_by_side(attempt, list(checkpoints))
    configs = {one: config for one, config in results if isinstance(config, dict)}
    return configs, {one: reason for one, reason in results if isinstance(reason, str)}


def _stored_digest(store: Store) -> str | None:
    """Return the digest of a store's config; None where there is no store yet."""
    with suppress(InputError):
        return store.version().identity.get("architecture")
    return None


def _config_of(
    digest: str,
    configs: Mapping[Checkpoint, dict[str, Any]],
    checkpoints: Sequence[Checkpoint],
    listed: Iterable[Checkpoint],
) -> dict[str, Any] | None:
    """Return the config with this digest, of the checkpoints or else of any other of the run."""
    for config in configs.values():
        if _digest(config) == digest:
            return config
    others, _ = _read(one for one in listed if one not in checkpoints)
    found = (config for config in others.values() if _digest(config) == digest)
    return next(found, None) or _former_config(digest, {**configs, **others})


def _former_config(
    digest: str, configs: Mapping[Checkpoint, dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the config that a store has the digest of, with the keys that are now left out."""
    whole, _ = _read(configs, progress=True)
    return next((configs[one] for one in whole if _digest(whole[one]) == digest), None)


def _source(kept: Mapping[Checkpoint, Meaning], former: Meaning | None) -> Checkpoint:
    """Return the first checkpoint with the store's config, or else with the most common one.

    The first of which transformers reads the file, if there is one: keys that are not compared may
    keep it from that.
    """
    commonest = Counter(map(id, kept.values())).most_common(1)[0][0]
    wanted = id(former) if former in kept.values() else commonest
    same = [one for one, meaning in kept.items() if id(meaning) == wanted]
    return next(filter(_is_readable, same[:_MOST_TRIED]), same[0])


def _is_readable(checkpoint: Checkpoint) -> bool:
    """Return whether transformers reads a checkpoint's config.json; True for code of its own."""
    try:
        with reading(checkpoint.uri):
            read_architecture(metadata_folder(listed_folder(checkpoint)))
    except (CheckpointError, InputError) as error:
        return "trust_remote_code" in str(error)
    return True


def _usual(meanings: Sequence[Meaning]) -> Meaning:
    groups = grouped(meanings)
    return meanings[groups.index(usual_group(meanings, groups))]


def _same_by_id(meanings: Iterable[Meaning], chosen: Meaning) -> dict[int, bool]:
    """Return, by `id`, whether each is the same as `chosen`; equal configs share one object."""
    return {id(one): one.same_as(chosen) for one in {id(one): one for one in meanings}.values()}


def _digest(config: Mapping[str, Any]) -> str:
    try:
        return digest_of(config)
    except ValueError:  # NaN or Infinity, which Python's reader accepts, although JSON has none
        return digest_of(json.dumps(config, sort_keys=True))
