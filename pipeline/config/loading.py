"""Read an analysis from a file, or a packaged preset by its name."""

from pathlib import Path

from pipeline.config.analysis import Analysis
from pipeline.config.analysis_paths import paths_from
from pipeline.config.faults import validated
from pipeline.config.suites import suite_of
from pipeline.config.yaml_files import read_yaml
from pipeline.errors import InputError, suggestion

PRESETS = Path(__file__).parents[1] / "presets"


def load_analysis(source: str | Path) -> Analysis:
    """Read an analysis from a YAML file, or a packaged preset by its name.

    Relative paths in a file are relative to that file; in a preset, to the working directory.
    """
    path = Path(source)
    is_preset = str(source) in _presets() or str(source) in suite_of()
    if path.is_file() or (path.exists() and not is_preset):
        return paths_from(validated(Analysis, read_yaml(path), where=str(path)), path.parent)
    return load_preset(str(source), "there is neither such a file nor such a preset")


def load_preset(name: str, otherwise: str = "there is no such preset") -> Analysis:
    """Return a packaged analysis; its relative paths are relative to the working directory.

    Raises InputError for an unknown name, with `otherwise` as the message's first clause, and for
    a member of a suite that cannot be analysed.
    """
    known = _presets()
    if name not in known and name not in suite_of():
        raise unknown_preset(name, otherwise)
    content = read_yaml(known[name]) if name in known else suite_of()[name].content(name)
    return validated(Analysis, content, where=f"preset {name}")


def unknown_preset(name: str, otherwise: str) -> InputError:
    """Return the error for a name that is no preset's; `otherwise` is its first clause."""
    advice = suggestion(name, (*_presets(), *suite_of()))
    if advice.startswith("known are"):  # more than anyone reads
        advice = "`ontogeny presets` lists those that are known"
    return InputError(f"{name}: {otherwise}; {advice}")


def own_presets() -> list[str]:
    """Return the names of the presets for runs of `ontogeny train`."""
    return sorted(_presets())


def _presets() -> dict[str, Path]:
    return {found.stem: found for found in PRESETS.glob("*.yaml")}
