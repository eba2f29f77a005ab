"""The command `ontogeny`: its packages are those beside this file, whatever else can be imported.

`pipeline`, `flows` and `infra` are common names. A module of one of these names in the working
folder or on PYTHONPATH comes before an installed package on Python's import path; so they are
imported from where this file lies, by their path, before anything asks for them by name.
"""

import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGES = ("pipeline", "flows", "infra")


def import_own_packages(names: Sequence[str] = PACKAGES) -> None:
    """Have these names be the packages beside this file, in this process.

    Replaces modules of these names that were imported from elsewhere.
    """
    for name in names:
        if is_own(name):
            continue
        source = _source(name)
        for other in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[other]
        spec = spec_from_file_location(
            name, source, submodule_search_locations=[str(source.parent)]
        )
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def is_own(name: str) -> bool:
    """Tell whether a name is that of an imported package, and of the one beside this file."""
    found = getattr(sys.modules.get(name), "__file__", None)
    return found is not None and Path(found).resolve() == _source(name)


def _source(name: str) -> Path:
    return Path(__file__).resolve().parent / name / "__init__.py"


def main() -> None:
    """Run the command."""
    import_own_packages()
    from flows.cli import app

    app(prog_name="ontogeny")


if __name__ == "__main__":
    main()
