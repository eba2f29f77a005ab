"""Versions of libraries that pip installs together although something then fails."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class _Incompatibility:
    """Versions of a distribution with which something fails.

    only_with: a condition on another. ends_runs: no run can start its own Prefect server.
    """

    distribution: str
    broken: str
    consequence: str
    remedy: str
    only_with: tuple[str, str] | None = None
    ends_runs: bool = False


_INCOMPATIBILITIES = (
    _Incompatibility(
        "fastapi",
        ">=0.151.dev0",
        "the Prefect server fails on import",
        "pip install 'fastapi<0.151'",
        ends_runs=True,
    ),
    _Incompatibility(
        "sqlalchemy",
        ">=2.1.dev0",
        "Prefect's scheduler fails on every pass and no scheduled run is ever created",
        "pip install 'sqlalchemy<2.1'",
    ),
    _Incompatibility(
        "certifi",
        "<2026.10.19",
        "prefect 3.9.1 and later ask for a newer one",
        "pip install 'prefect<3.9'",
        only_with=("prefect", ">=3.9.1"),
    ),
)


def library_versions() -> Iterator[tuple[str, bool, str]]:
    """Yield each distribution with a known incompatibility, if it is sound, and its version.

    For one that is not sound, the version is followed by the consequence and what to do.
    """
    for known in _INCOMPATIBILITIES:
        try:
            found = version(known.distribution)
            broken = _contains(found, known.broken) and _applies(known)
        except PackageNotFoundError as error:
            yield known.distribution, False, f"{error.name} is missing: install it again"
            continue
        message = f"{found}: {known.consequence}: {known.remedy}" if broken else found
        yield known.distribution, not broken, message


def library_faults() -> list[str]:
    """Return a sentence for each distribution with which no run can start its Prefect server."""
    ending = {known.distribution for known in _INCOMPATIBILITIES if known.ends_runs}
    found = library_versions()
    return [f"{name} {said}" for name, sound, said in found if name in ending and not sound]


def _applies(known: _Incompatibility) -> bool:
    if known.only_with is None:
        return True
    other, versions = known.only_with
    return _contains(version(other), versions)


def _contains(found: str, versions: str) -> bool:
    return SpecifierSet(versions).contains(found, prereleases=True)
