"""The command `ontogeny`, which always imports the packages that lie beside this file.

`pipeline` and `flows` are common names. Modules with these names in the working folder or on
PYTHONPATH come before an installed package on Python's import path. Therefore both packages are
imported here by their file paths, before anything imports them by name.
"""

import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGES = ("pipeline", "flows")


def import_own_packages(names: Sequence[str] = PACKAGES) -> None:
    """Bind these names to the packages beside this file, in this process.

    Modules with these names that were imported from elsewhere are replaced.
    """
    for name in names:
        if is_own(name):
            continue
        source = _source(name)
        # Submodules of the other package would otherwise be found as submodules of ours.
        for other in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[other]
        spec = spec_from_file_location(
            name, source, submodule_search_locations=[str(source.parent)]
        )
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        # Registered before it is executed, because its own modules import it by name.
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
