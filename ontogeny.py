"""The command `ontogeny`: its packages are those beside this file, whatever else can be imported.

`pipeline`, `flows` and `infra` are common names. A module of one of these names in the working
folder or on PYTHONPATH comes before an installed package on Python's import path; so they are
imported from where this file lies, by their path, before anything asks for them by name.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGES = ("pipeline", "flows", "infra")


def import_own_packages() -> None:
    """Have the names in `PACKAGES` be the packages beside this file, in this process.

    Replaces modules of these names that were imported from elsewhere.
    """
    for name in PACKAGES:
        source = Path(__file__).resolve().parent / name / "__init__.py"
        present = sys.modules.get(name)
        if present is not None and _is_from(present, source):
            continue
        for other in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[other]
        spec = spec_from_file_location(
            name, source, submodule_search_locations=[str(source.parent)]
        )
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
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
