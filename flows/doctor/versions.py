"""Versions that install without complaint, and with which something then fails."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from flows.doctor.finding import Finding


@dataclass(frozen=True)
class _Break:
    """Versions of a distribution with which something fails. only_with: where that matters."""

    distribution: str
    broken: str
    then: str
    remedy: str
    only_with: tuple[str, str] | None = None


_BREAKS = (
    _Break(
        "fastapi",
        ">=0.151.dev0",
        "the Prefect server fails on import",
        "pip install 'fastapi<0.151'",
    ),
    _Break(
        "sqlalchemy",
        ">=2.1.dev0",
        "Prefect's scheduler fails on every pass and no scheduled run is ever created",
        "pip install 'sqlalchemy<2.1'",
    ),
    _Break(
        "certifi",
        "<2026.10.19",
        "prefect 3.9.1 and later ask for a newer one",
        "pip install 'prefect<3.9'",
        only_with=("prefect", ">=3.9.1"),
    ),
)


def of_libraries() -> Iterator[Finding]:
    """One finding for each distribution that is known to break something."""
    for known in _BREAKS:
        try:
            found = version(known.distribution)
            broken = _lies_in(found, known.broken) and _matters(known)
        except PackageNotFoundError as error:
            yield Finding(known.distribution, False, f"{error.name} is missing: install it again")
            continue
        said = f"{found}: {known.then}: {known.remedy}" if broken else found
        yield Finding(known.distribution, not broken, said)


def _matters(known: _Break) -> bool:
    if known.only_with is None:
        return True
    other, versions = known.only_with
    return _lies_in(version(other), versions)


def _lies_in(found: str, versions: str) -> bool:
    return SpecifierSet(versions).contains(found, prereleases=True)
