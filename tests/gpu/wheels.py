"""Download the wheels that a machine lacks which has PyTorch and a GPU, and no network.

    python -m tests.gpu.wheels --python /path/to/python3.12

`installed.txt` names the packages that such a machine has. pip resolves what the package and its
tests need beside them, with the versions of constraints.txt; what is missing there lies in `.whl/`
afterwards, for `check.sh` to install. Prints each wheel with its size, and on which packages of the
machine it relies whose versions are not known. pip evaluates markers such as python_version for the
interpreter under which it runs, hence `--python`.
"""

import argparse
import json
import shutil
import subprocess
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
INSTALLED = Path(__file__).with_name("installed.txt")
FOR_TESTS = ("beartype", "hypothesis", "pytest", "pytest-timeout", "pytest-xdist")
MIB = 2**20
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_LOWER = {">=", ">", "==", "~="}

Versions = Mapping[str, str]  # of packages, by normalised name; "" where it is not known


class UnfitError(Exception):
    """The wheels do not suffice, or are too large; the message is one sentence."""


@dataclass(frozen=True)
class Needed:
    """A package that is needed, as pip resolved it, with its own requirements."""

    name: str
    version: str
    requires: tuple[Requirement, ...]


def read_versions(text: str) -> Versions:
    """Return the packages of a file with a requirement a line, such as constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.partition("==") for line in lines if line)
    return {canonicalize_name(name): version for name, _, version in pairs}


def read_project() -> Mapping[str, Any]:
    """Return what pyproject.toml says of the package."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def direct_requirements(project: Mapping[str, Any]) -> list[Requirement]:
    """Return the requirements of the core, of the extra `engine` and of the tests."""
    engine = project["optional-dependencies"]["engine"]
    return [Requirement(one) for one in (*project["dependencies"], *engine, *FOR_TESTS)]


def required(project: Mapping[str, Any], there: Versions) -> list[Requirement]:
    """Return what must be resolved: all direct requirements but those of known version there.

    Raises UnfitError if a version there is too old.
    """
    found = []
    for one in direct_requirements(project):
        version = there.get(canonicalize_name(one.name))
        if not version:
            found.append(one)
        elif not one.specifier.contains(version, prereleases=True):
            raise UnfitError(
                f"{INSTALLED.name} has {one.name} {version}, and pyproject.toml needs {one}: "
                "no wheel replaces it"
            )
    return found


def resolve(
    python: str, requirements: Iterable[Requirement], constraints: Versions
) -> list[Needed]:
    """Return the requirements with all that they need, as pip resolves them."""
    with TemporaryDirectory() as folder:
        pinned, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        pinned.write_text("\n".join(f"{n}=={v}" for n, v in constraints.items() if v))
        pip(
            python, "install", "--dry-run", "--ignore-installed", "--target", folder,
            "--report", str(report), "--constraint", str(pinned), *map(str, requirements),
        )  # fmt: skip
        reported = json.loads(report.read_text())["install"]
    return [needed(one["metadata"]) for one in reported]


def needed(metadata: Mapping[str, Any]) -> Needed:
    """Return a package of pip's report, with its requirements on Linux and Python 3.12."""
    machine = {**default_environment(), "python_version": PYTHON, "extra": ""}
    requires = [Requirement(text) for text in metadata.get("requires_dist", ())]
    hold = (one for one in requires if one.marker is None or one.marker.evaluate(machine))
    return Needed(canonicalize_name(metadata["name"]), metadata["version"], tuple(hold))


def carried(
    resolved: Collection[Needed], direct: Iterable[Requirement], there: Versions
) -> list[Needed]:
    """Return what must be taken along: what is not there, or may be too old there.

    Where no version is known, that is what pyproject.toml bounds from below, and what some other
    wheel needs in the very version that was resolved.
    """
    bounded = {canonicalize_name(one.name) for one in direct if has_lower_bound(one)}
    taken = [one for one in resolved if one.name not in there or one.name in bounded]
    newest = {(canonicalize_name(r.name), bound) for one in taken for r in one.requires
              for bound in lower_bounds(r)}  # fmt: skip
    return [one for one in resolved if one in taken or (one.name, one.version) in newest]


def met_there(
    project: Mapping[str, Any],
    resolved: Iterable[Needed],
    taken: Collection[Needed],
    there: Versions,
) -> list[str]:
    """Return what is needed and there, with its version where that is known."""
    direct = {canonicalize_name(one.name) for one in direct_requirements(project)}
    others = {one.name for one in resolved} - {one.name for one in taken}
    names = others | {name for name, version in there.items() if version and name in direct}
    return [f"{name}=={there[name]}" if there[name] else name for name in sorted(names)]


def relied_on(taken: Iterable[Needed], there: Versions) -> Mapping[str, list[str]]:
    """Return the lower bounds that wheels have for packages of unknown version there."""
    known = {one.name for one in taken} | {name for name, version in there.items() if version}
    bounds: dict[str, list[str]] = {}
    for one in taken:
        for requirement in filter(has_lower_bound, one.requires):
            if (name := canonicalize_name(requirement.name)) not in known:
                bounds.setdefault(name, []).append(f"{requirement.specifier} by {one.name}")
    return dict(sorted(bounds.items()))


def has_lower_bound(requirement: Requirement) -> bool:
    """Return whether some version may be too old for a requirement."""
    return bool(lower_bounds(requirement))


def lower_bounds(requirement: Requirement) -> list[str]:
    """Return the versions below which a requirement refuses all others."""
    return [one.version for one in requirement.specifier if one.operator in _LOWER]


def download(python: str, taken: Iterable[Needed], folder: Path) -> dict[str, Path]:
    """Download wheels into an empty folder. Returns their files by the names of the packages."""
    shutil.rmtree(folder, ignore_errors=True)
    pinned = [f"{one.name}=={one.version}" for one in taken]
    pip(python, "download", "--no-deps", "--dest", str(folder), *pinned)
    return {canonicalize_name(file.name.partition("-")[0]): file for file in folder.glob("*.whl")}


def pip(python: str, command: str, *arguments: str) -> None:
    """Run pip for wheels of the machine alone. Raises UnfitError with pip's own last error."""
    platforms = [f"--platform={name}_x86_64" for name in PLATFORMS]
    only = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", *platforms]
    call = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", command, *only]
    done = subprocess.run([*call, *arguments], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UnfitError(f"pip {command} failed: {(errors or [done.stderr.strip()])[-1]}")


def require_python(python: str) -> None:
    """Raise UnfitError unless a command is a Python of the machine's version."""
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = ""
    if path := shutil.which(python):
        found = subprocess.run([path, "-c", asked], capture_output=True, text=True).stdout.strip()
    if found != PYTHON:
        raise UnfitError(
            f"{python} is {f'Python {found}' if found else 'no Python'}, and Python {PYTHON} is "
            "needed: give its path as --python"
        )


def tree_bytes() -> int:
    """Return the bytes of the files of the working tree that git does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = (ROOT / name for name in names.split("\0") if name)
    return sum(file.lstat().st_size for file in files if file.exists())


def main() -> None:
    """Print the wheels, download them, and fail if they are too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=f"python{PYTHON}", help="a Python 3.12 with pip")
    parser.add_argument("--to", type=Path, default=ROOT / ".whl", help="folder for the wheels")
    parser.add_argument("--limit", type=float, default=64, help="MiB of wheels and working tree")
    parser.add_argument("--there", type=Path, help="file for the requirements that are met there")
    options = parser.parse_args()
    try:
        run(options.python, options.to, options.limit, options.there)
    except UnfitError as error:
        parser.exit(1, f"wheels: {error}\n")


def run(python: str, folder: Path, limit: float, met: Path | None) -> None:
    """Download the wheels to a folder, and print them with their sizes. Raises UnfitError.

    met: a file to which the packages are written that are needed and there, one a line.
    """
    require_python(python)
    there = read_versions(INSTALLED.read_text())
    tested = read_versions((ROOT / "constraints.txt").read_text())
    project = read_project()
    direct = required(project, there)
    constraints = {**tested, **{name: version for name, version in there.items() if version}}
    resolved = resolve(python, direct, constraints)
    taken = carried(resolved, direct, there)
    files = download(python, taken, folder)
    if met is not None:
        met.write_text("\n".join(met_there(project, resolved, taken, there)) + "\n")
    sizes = {one.name: files[one.name].stat().st_size for one in taken}
    for one in sorted(taken, key=lambda one: -sizes[one.name]):
        print(f"{one.name:<24}{one.version:<16}{sizes[one.name] / MIB:8.2f} MiB")
    for name, bounds in relied_on(taken, there).items():
        print(f"there, of unknown version: {name}, needed {', '.join(bounds)}")
    wheels, tree = sum(sizes.values()) / MIB, tree_bytes() / MIB
    print(
        f"{len(taken)} wheels {wheels:.1f} MiB + working tree {tree:.1f} MiB = {wheels + tree:.1f} "
        f"of {limit:.0f} MiB, in {folder}"
    )
    if wheels + tree > limit:
        raise UnfitError(f"{wheels + tree:.1f} MiB are more than the {limit:.0f} MiB that fit")


if __name__ == "__main__":
    main()
