"""The one architecture of an analysis, and which of its checkpoints have another or none."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.floats import as_trained
from pipeline.checkpoints.listing import SIDE_BY_SIDE
from pipeline.checkpoints.places import read_config
from pipeline.errors import CheckpointError, InputError
from pipeline.models.meaning import Meaning, grouped, meanings_of, usual_group
from pipeline.store import Store
from pipeline.store.fingerprint import digest_of


@dataclass(frozen=True)
class Architecture:
    """What the checkpoints of an analysis share.

    source: the checkpoint whose config.json the model is built from: the first one with the store's
    own, else with the commonest. digest: of that config, by
    which a store is known again. failed: the steps whose config is missing, torn or another
    model's, each with the reason. meanings: of the others, by step.
    """

    source: Checkpoint
    digest: str
    failed: Mapping[int, str]
    meanings: Mapping[int, Meaning]

    def too_short(self, longest: int) -> dict[int, str]:
        """The steps whose config allows fewer positions than the longest input has, with that.

        (The source is not among them: its own limit is checked when the inputs are made.)
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
    """Compare the configs of an analysis's checkpoints by what they mean.

    The model is that of the store, where there is one; else that of most checkpoints, of equally
    many that of the last one. listed: all checkpoints of the run, in which the store's config is
    looked for. trusted: whether code that comes with the checkpoints counts. Raises InputError
    where no config can be read.
    """
    configs, failed = _read(checkpoints)
    if not configs:
        more = f" (and {len(failed) - 1} more such checkpoints)" if len(failed) > 1 else ""
        raise InputError(next(iter(failed.values())) + more)
    known = _stored_digest(store)
    former = None if known is None else _config_of(known, configs, checkpoints, listed)
    *found, last = meanings_of([*configs.values(), former or {}], trusted)
    meanings = dict(zip(configs, found, strict=True))
    chosen = last if former and any(_distinct(found, last).values()) else _usual(found)
    is_same = _distinct(found, chosen)
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
    checkpoints: Iterable[Checkpoint],
) -> tuple[dict[Checkpoint, dict[str, Any]], dict[Checkpoint, str]]:
    """The config of each checkpoint, and of those that have none to read the reason."""

    def attempt(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, Any] | str]:
        try:
            return checkpoint, as_trained(read_config(checkpoint.uri, checkpoint.files))
        except (InputError, CheckpointError) as error:
            return checkpoint, str(error)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        results = list(threads.map(attempt, checkpoints))
    configs = {one: config for one, config in results if isinstance(config, dict)}
    return configs, {one: reason for one, reason in results if isinstance(reason, str)}


def _stored_digest(store: Store) -> str | None:
    """The digest of the config that a store was made with; None where there is no store yet."""
    with suppress(InputError):
        return store.version().identity.get("architecture")
    return None


def _config_of(
    digest: str,
    configs: Mapping[Checkpoint, dict[str, Any]],
    checkpoints: Sequence[Checkpoint],
    listed: Iterable[Checkpoint],
) -> dict[str, Any] | None:
    """The config of this digest: of the checkpoints, else of any other one of the run."""
    for config in configs.values():
        if _digest(config) == digest:
            return config
    others, _ = _read(one for one in listed if one not in checkpoints)
    return next((config for config in others.values() if _digest(config) == digest), None)


def _source(kept: Mapping[Checkpoint, Meaning], former: Meaning | None) -> Checkpoint:
    """The first checkpoint with the store's very config, else with the commonest one."""
    commonest = Counter(map(id, kept.values())).most_common(1)[0][0]
    wanted = id(former) if former in kept.values() else commonest
    return next(one for one, meaning in kept.items() if id(meaning) == wanted)


def _usual(meanings: Sequence[Meaning]) -> Meaning:
    groups = grouped(meanings)
    return meanings[groups.index(usual_group(meanings, groups))]


def _distinct(meanings: Iterable[Meaning], chosen: Meaning) -> dict[int, bool]:
    """Whether each is the same as `chosen`, by identity: equal configs are compared once."""
    return {id(one): one.same_as(chosen) for one in {id(one): one for one in meanings}.values()}


def _digest(config: Mapping[str, Any]) -> str:
    try:
        return digest_of(config)
    except ValueError:  # NaN or Infinity, which Python reads though JSON has none
        return digest_of(json.dumps(config, sort_keys=True))
