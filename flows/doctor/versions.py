"""Checks of the versions of libraries."""

from collections.abc import Iterator

from flows.doctor.check import Check
from flows.versions import library_versions


def check_libraries() -> Iterator[Check]:
    """Yield a check for each distribution with a known incompatibility."""
    return (Check(name, sound, said) for name, sound, said in library_versions())
