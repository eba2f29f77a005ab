"""The changes that a store makes to a version: a group's variants, those shown, the verdict."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.errors import InputError
from pipeline.store.commits import Commit, latest
from pipeline.store.fingerprint import plain_json
from pipeline.store.templates import Template, check_same_variables
from pipeline.store.versions import Version


def with_variant(
    groups: Mapping[str, Any], template: Template, commits: Sequence[Commit], uri: str
) -> dict[str, Any]:
    """Return the entry of a group, with a variant that it may not have had.

    groups: of the version. commits: all rows that are there. Raises InputError, naming the store's
    uri, where the variant is there with other variables.
    """
    name, variant, wanted = template.group, template.variant, template.as_json()
    entry = groups.get(name, {"current": variant, "variants": {}})
    if variant in entry["variants"]:
        check_same_variables(name, entry["variants"][variant], wanted, uri)
    shown = entry["current"]
    if not any(c.group == name and c.variant == shown for c in commits):
        shown = variant
    return {"current": shown, "variants": {**entry["variants"], variant: wanted}}


def with_current(
    version: Version,
    variants: Mapping[str, str],
    steps: Mapping[str, Collection[int]],
    uri: str,
) -> Version:
    """Return a version that shows these variants.

    steps: by group, those whose rows are to be sealed. InputError where one is not there: rows
    of variants that are not current may be reclaimed at any time.
    """
    groups = dict(version.groups)
    for group, variant in variants.items():
        there = latest((c for c in version.rows if c.group == group), variant)
        if gone := sorted(set(steps.get(group, ())) - there.keys()):
            raise InputError(
                f"{uri}: rows of {group!r} were reclaimed while they were computed "
                f"(step {gone[0]} and {len(gone) - 1} more): run the analysis again"
            )
        _check_variant(version, group, variant)
        groups[group] = {**groups[group], "current": variant}
    return replace(version, groups=groups)


def with_verdict(
    version: Version, verdict: Mapping[str, Any] | None, masked: Mapping[int, str]
) -> Version:
    """Return a version with this verdict on the run's checkpoints, and the steps that it masks."""
    return replace(version, verdict=plain_json(verdict), masked=dict(sorted(masked.items())))


def _check_variant(version: Version, group: str, variant: str) -> None:
    """Raise ValueError for a variant that the version does not have."""
    try:
        version.template(group, variant)
    except KeyError:
        raise ValueError(
            f"variant {variant} of group {group!r} is unknown: call require_groups() first"
        ) from None
