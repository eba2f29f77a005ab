"""The properties of a run and a machine that a draft of an analysis is made from."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.analysis.examination import examine
from pipeline.analysis.faults import Faults
from pipeline.analysis.machine import gpus_here
from pipeline.analysis.survey import Survey, survey
from pipeline.checkpoints.files import RUN_FILE
from pipeline.checkpoints.foreign import table_facts
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder
from pipeline.config import Analysis
from pipeline.inputs.bos import run_bos
from pipeline.inputs.drawable import drawable_ids, run_tokenizer
from pipeline.models.facts import ModelFacts
from pipeline.training import Training, load_run, table_of, trained_vocabulary

# Reads weights only, so that a run of every kind can be examined with it.
SEED_MEASURES: Mapping[str, Any] = {"weight_norm": {}}

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, on Linux; "max" without one


@dataclass(frozen=True)
class Machine:
    """The machine that is to compute. cores: CPU cores. memory: bytes. gpus: CUDA devices."""

    cores: int
    memory: int
    gpus: int

    @classmethod
    def here(cls) -> "Machine":
        """Return this machine, as far as this process may use it."""
        can_tell = hasattr(os, "sched_getaffinity")  # absent on macOS
        cores = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1
        return cls(cores, _memory(), gpus_here())


@dataclass(frozen=True)
class Seen:
    """A run, as its listing and small files describe it.

    run_folder: local, with the small files of the run and of a checkpoint. bos: whether these name
    a BOS token. n_drawable: ids that random inputs may draw; drawn_from says which. tokenizer: ""
    if there is one beside the checkpoints, else why not. training: of an organism. table: what is
    known of a table of modular arithmetic, {} for other runs.
    """

    surveyed: Survey
    facts: ModelFacts
    run_folder: str
    bos: bool
    n_drawable: int
    drawn_from: str
    tokenizer: str
    training: Training | None
    table: Mapping[str, Any]

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that the audit leaves, in order."""
        return tuple(one.step for one in self.surveyed.checkpoints)

    @property
    def tokens_known(self) -> bool:
        """True if the tokens seen are known at every checkpoint."""
        return all(one.tokens_seen is not None for one in self.surveyed.checkpoints)


def look(analysis: Analysis) -> Seen:
    """Look at the run of an analysis whose measures read weights only. Reads no weights.

    Raises InputError if it cannot be listed, or has no model that can be built.
    """
    surveyed = survey(analysis)
    faults = Faults()
    prepared = examine(analysis, surveyed, faults)
    faults.refuse()
    assert prepared is not None, "nothing is prepared only where there is a fault"
    facts = next(iter(prepared.settings.values())).model
    folder = metadata_folder(surveyed.run, listed_folder(prepared.job.architecture))
    drawn = drawable_ids(None, str(folder), trained_vocabulary(folder), facts)
    bos = run_bos(str(folder), facts)
    tokenizer = run_tokenizer(str(folder))
    return Seen(
        surveyed=surveyed,
        facts=facts,
        run_folder=str(folder),
        bos=bos is not None,
        n_drawable=int((drawn.ids != bos).sum()) if bos is not None else len(drawn.ids),
        drawn_from=drawn.source,
        tokenizer=tokenizer if isinstance(tokenizer, str) else "",
        training=load_run(folder) if (folder / RUN_FILE).is_file() else None,
        table=_table(str(folder)),
    )


def _memory() -> int:
    """Return the bytes of this machine's memory, or fewer where a container is limited to them."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # there is no limit
        return min(installed, int(_LIMIT.read_text()))
    return installed


def _table(run_folder: str) -> Mapping[str, Any]:
    return table_facts(run_folder) | table_of(run_folder)
