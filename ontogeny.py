"""The command `ontogeny`, which always imports the packages that lie beside this file.

`pipeline` and `flows` are common names. Modules with these names in the working folder or on
PYTHONPATH come before an installed package on Python's import path. Therefore both packages are
imported here by their file paths, before anything imports them by name.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGES = ("pipeline", "flows")


def import_own_packages() -> None:
    """Bind the names in `PACKAGES` to the packages beside this file, in this process.

    Modules with these names that were imported from elsewhere are replaced.
    """
    for name in PACKAGES:
        source = Path(__file__).resolve().parent / name / "__init__.py"
        present = sys.modules.get(name)
        if present is not None and _is_from(present, source):
            continue
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


def _is_from(module: object, source: Path) -> bool:
    found = getattr(module, "__file__", None)
    return found is not None and Path(found).resolve() == source


def main() -> None:
    """Run the command."""
    import_own_packages()
    from flows.cli import app

    app(prog_name="ontogeny")


if __name__ == "__main__":
    main()
