"""Runs side by side: the settings in which they differ, their sets, and the colours of these."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.aggregate.side_by_side import ALL
from pipeline.findings.number_format import in_words
from pipeline.query.sweeps import settings_that_differ
from pipeline.report.site.run_data import Run

# Colours that are told apart, for runs or sets of runs.
ROLES = ("previous_token", "induction", "restricted", "excluded", "current_token", "q", "v", "k")


@dataclass(frozen=True)
class Sets:
    """The runs of a site. settings: that differ, by run; None where a training is not known.

    of: the set of each run, named by the settings other than seeds. roles: the colour of each run:
    that of its set, or its own where all are in one set.
    """

    runs: Sequence[Run]
    settings: dict[str, dict[str, str]] | None
    of: dict[str, str]
    roles: dict[str, str]

    @property
    def spread(self) -> str:
        """Return over what the range of a set is, in words."""
        if self.settings is None:
            return "the runs given, whose settings are not known"
        return "the runs that differ by seed only"


def sets_in(runs: Sequence[Run]) -> Sets:
    """Return the sets of some runs: those whose training differs by seeds only."""
    found = settings_that_differ([run.tree for run in runs])
    names = [run.name for run in runs]
    if found is None:
        of, settings = dict.fromkeys(names, ALL), None
    else:
        settings = {name: {key: str(value) for key, value in one.items()}
                    for name, one in zip(names, found, strict=True)}  # fmt: skip
        of = {name: _label(one) for name, one in settings.items()}
    keys = list(dict.fromkeys(of.values()))
    coloured = of if len(keys) > 1 else {name: name for name in names}
    order = {key: i for i, key in enumerate(dict.fromkeys(coloured.values()))}
    roles = {name: ROLES[order[key] % len(ROLES)] for name, key in coloured.items()}
    return Sets(runs, settings, of, roles)


def set_in_words(label: str) -> str:
    """Return the name that `query.side_by_side.sets_of` gives a set in words."""
    if label == ALL:
        return label
    return ", ".join(_setting(*part.split(" ", 1)) for part in label.split(", "))


def _label(settings: dict[str, str]) -> str:
    others = {key: value for key, value in settings.items() if not key.endswith("seed")}
    return ", ".join(_setting(key, value) for key, value in others.items()) or ALL


def _setting(key: str, value: str = "") -> str:
    """Return a setting in words: "train share 0.4", "with smeared keys"."""
    if value in ("True", "False"):
        return f"{'with' if value == 'True' else 'without'} {in_words(key)}"
    return f"{in_words(key)} {value}".strip()
