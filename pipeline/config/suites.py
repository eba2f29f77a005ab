"""Presets of public suites of models: each analysis is built from a member and its suite.

A file of `presets/suites/` describes one suite: where its members' checkpoints are, with what
schedule, what is known to be wrong with them, and the sources of all that.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipeline.config.faults import Strict, validated
from pipeline.config.yaml_files import read_yaml
from pipeline.errors import InputError

FOLDER = Path(__file__).parents[1] / "presets" / "suites"
_ANALYSES = "analyses.yaml"


class Member(Strict):
    """One training run of a suite, where it differs from the others.

    repository: its part of the address; the name of the preset if it is not given. analysis: a key
    of `analyses.yaml`.
    """

    repository: str | None = None
    tokens_per_step: int | None = Field(default=None, ge=1)
    analysis: str | None = None


class KnownFault(Strict):
    """A fault of published checkpoints that others have reported, with the source.

    members: whose checkpoints; empty for all of the suite.
    """

    what: str
    source: str
    members: tuple[str, ...] = ()


class Suite(Strict):
    """A public suite of training runs with their checkpoints.

    about: authors, year, and what a user should know. checkpoints: an address, with `{member}` for
    a member's repository; or the name of a list of addresses beside the suite's file. schedule:
    which steps were kept, and how they are named. members: by the name of the preset. analysis: a
    key of `analyses.yaml`. refused: why its members cannot be analysed, "" if they can. sources:
    the papers, model cards and code that say all this.
    """

    suite: str
    about: str
    members: dict[str, Member | None] = Field(min_length=1)
    sources: tuple[str, ...] = Field(min_length=1)
    checkpoints: str = ""
    schedule: str = ""
    tokens_per_step: int | None = Field(default=None, ge=1)
    analysis: str = ""
    select: dict[str, int] | None = None
    faults: tuple[KnownFault, ...] = ()
    refused: str = ""

    @model_validator(mode="after")
    def _is_complete(self) -> "Suite":
        if not self.refused and not (self.checkpoints and self.schedule and self.analysis):
            raise ValueError("a suite that is not refused has checkpoints, schedule and analysis")
        known = {name for fault in self.faults for name in fault.members}
        if unknown := known - self.members.keys():
            raise ValueError(f"a fault is of {min(unknown)!r}, which is no member")
        return self

    def address(self, preset: str) -> str:
        """Return the address of a member's checkpoints."""
        if "://" not in self.checkpoints:
            return str(FOLDER / self.checkpoints)
        return self.checkpoints.replace("{member}", self._member(preset).repository or preset)

    def tokens_of(self, preset: str) -> int | None:
        """Return the training tokens of each step; None if they are unknown or vary."""
        return self._member(preset).tokens_per_step or self.tokens_per_step

    def faults_of(self, preset: str) -> list[KnownFault]:
        """Return what is known to be wrong with a member's checkpoints."""
        return [one for one in self.faults if preset in one.members or not one.members]

    def content(self, preset: str) -> dict[str, Any]:
        """Return a member's analysis, as the content of a YAML file.

        Raises InputError, with the reason, if the suite is refused.
        """
        if self.refused:
            raise InputError(f"{preset}: {self.refused}")
        made = dict(_analyses()[self._member(preset).analysis or self.analysis])
        made |= {"checkpoints": self.address(preset), "store": f"{preset}.zarr"}
        if (tokens := self.tokens_of(preset)) is not None:
            made["tokens_per_step"] = tokens
        if self.select is not None:
            made["select"] = self.select
        return made

    def _member(self, preset: str) -> Member:
        return self.members[preset] or Member()


@cache
def suites() -> tuple[Suite, ...]:
    """Return all suites that are known, in the order of their files' names."""
    files = sorted(path for path in FOLDER.glob("*.yaml") if path.name != _ANALYSES)
    return tuple(validated(Suite, read_yaml(path), where=str(path)) for path in files)


@cache
def suite_of() -> Mapping[str, Suite]:
    """Return the suite of each preset."""
    return {name: suite for suite in suites() for name in suite.members}


@cache
def _analyses() -> dict[str, dict[str, Any]]:
    return read_yaml(FOLDER / _ANALYSES)
