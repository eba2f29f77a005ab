"""What an analysis would take, before it is run: nothing is written, and no weights are read."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.filesize import decimal

from pipeline.analysis.plan import Group, Prepared, resolve
from pipeline.analysis.survey import survey
from pipeline.checkpoints import LeftOut
from pipeline.checkpoints.contents import weight_parts
from pipeline.checkpoints.left_out import in_lines
from pipeline.checkpoints.places import listed_folder, place_of, remote_place_of
from pipeline.config import Analysis
from pipeline.engine.record import Pass, merge
from pipeline.errors import CheckpointError
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.models.loading import ModelFacts, torch_dtype
from pipeline.store.packs import LARGE
from pipeline.store.templates import LABELS
from pipeline.store.trajectories import shards

_OVERHEAD = 1.25  # of the matrix products alone: all else that a forward pass does
_SECONDS = 0.2  # for which products are timed
_CONTROL_FILES = 8  # versions, a lease, and where other tools begin


@dataclass(frozen=True)
class Estimate:
    """What a first run of an analysis takes, if its store is empty.

    left_out: what lies beside the checkpoints and may be one, each with the reason.
    bytes_to_fetch: from elsewhere; 0 for a local run. forward_passes: over one input each.
    hours: of computing on the configured workers, from the matrix products of the forward passes
    and their speed on this machine now; fetching, reading and the measures come on top where they
    take longer. store_bytes, store_files: of the rows and of the trajectories, which hold
    the same numbers, the bytes before compression. notes: see `pipeline.analysis.plan.Prepared`.
    failed: the steps whose config.json is missing, torn or another model's, each with the reason.
    drawn_from: which token ids each random input draws from, and why these.
    """

    checkpoints: int
    masked: int
    masked_steps: Mapping[int, str]
    bytes_to_fetch: int
    bytes_to_read: int
    forward_passes: int
    hours: float
    store_bytes: int
    store_files: int
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)
    drawn_from: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, str]]:
        """What a person reads: a name and an amount with its unit for each."""
        masked = f" ({self.masked} masked by the audit)" if self.masked else ""
        failed = f" ({len(self.failed)} cannot be computed)" if self.failed else ""
        yield "checkpoints", f"{self.checkpoints}{masked}{failed}"
        for line in in_lines(self.left_out):
            yield "left out", line
        for step, reason in self.masked_steps.items():
            yield f"step {step:,}", f"is left out: {reason}"
        yield "to fetch", decimal(self.bytes_to_fetch)
        yield "to read", decimal(self.bytes_to_read)
        yield "forward passes", str(self.forward_passes)
        yield "hours of computing", f"{self.hours:.2g}" if self.hours >= 0.01 else "under 0.01"
        files = f"{self.store_files:,} files"
        yield "store", f"{decimal(self.store_bytes)} before compression, in {files}"
        yield from ((f"tokens of {name}", source) for name, source in self.drawn_from.items())


def dry_run(analysis: Analysis) -> Estimate:
    """Estimate an analysis. Raises InputError for all that the analysis itself would refuse."""
    surveyed = survey(analysis)
    prepared = resolve(analysis, surveyed)
    count = len(prepared.checkpoints)
    read = sum(_weight_bytes(prepared))
    facts = next(iter(prepared.settings.values())).model
    forward_passes, products = 0, 0.0
    for groups, checkpoints in Counter(_groups_by_checkpoint(prepared)).items():
        passes = _passes(prepared, groups)
        forward_passes += checkpoints * len(passes)
        each = (_products(facts, prepared.inputs[one.input], one) for one in passes)
        products += checkpoints * sum(each)
    speed = _products_per_second(analysis, facts.d_model) if products else 1.0
    sizes = [_size(prepared, group) for group in prepared.job.groups]
    seconds = _OVERHEAD * products / speed / analysis.workers.count
    return Estimate(
        checkpoints=count,
        masked=len(surveyed.masked),
        masked_steps=surveyed.masked,
        bytes_to_fetch=read if remote_place_of(analysis.checkpoints) else 0,
        bytes_to_read=read,
        forward_passes=forward_passes,
        hours=seconds / 3600,
        store_bytes=2 * sum(size.bytes for size in sizes),
        store_files=_CONTROL_FILES + len(prepared.inputs) + sum(size.files for size in sizes),
        left_out=surveyed.left_out,
        notes=prepared.notes,
        failed=prepared.failed,
        drawn_from=prepared.drawn_from,
    )


def _groups_by_checkpoint(prepared: Prepared) -> Iterable[tuple[Group, ...]]:
    """What is computed at each checkpoint."""
    groups: dict[int, tuple[Group, ...]] = {one.step: () for one in prepared.checkpoints}
    for group in prepared.job.groups:
        for checkpoint in prepared.checkpoints_of(group):
            groups[checkpoint.step] += (group,)
    return groups.values()


def _passes(prepared: Prepared, groups: Iterable[Group]) -> list[Pass]:
    return merge(
        wanted for group in groups for wanted in group.measure.passes(prepared.settings[group.name])
    )


def _weight_bytes(prepared: Prepared) -> list[int]:
    """The bytes of each checkpoint's weights; those that are broken count as nothing."""
    place = place_of(prepared.checkpoints[0].uri)
    sizes = []
    for checkpoint in prepared.checkpoints:
        try:
            sizes.append(sum(part.size for part in weight_parts(place, listed_folder(checkpoint))))
        except CheckpointError:
            sizes.append(0)
    return sizes


def _products(facts: ModelFacts, made: Input, pass_: Pass) -> float:
    """Multiplications and additions of one pass: 12 d^2 weights per layer, the attention, W_U."""
    sequences, length = made.tokens.shape
    layers = facts.n_layers - (pass_.change.first_layer if pass_.change else 0)
    per_layer = 12 * facts.d_model**2 + 2 * length * facts.d_model
    weights = layers * per_layer + facts.vocabulary * facts.d_model
    return 2.0 * weights * sequences * length


def _products_per_second(analysis: Analysis, d_model: int) -> float:
    workers = analysis.workers
    device = torch.device(workers.device if torch.cuda.is_available() else "cpu")
    left = torch.ones(512, d_model, dtype=torch_dtype(workers.dtype), device=device)
    right = torch.ones(d_model, 4 * d_model, dtype=left.dtype, device=device)
    times, started = [], time.perf_counter()
    while time.perf_counter() - started < _SECONDS or len(times) < 3:
        before = time.perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - before)
    return 2.0 * left.numel() * 4 * d_model / float(np.median(times))


@dataclass(frozen=True)
class _Size:
    """bytes: of the rows of a group, before compression. files: of rows and trajectories."""

    bytes: int
    files: int


def _size(prepared: Prepared, group: Group) -> _Size:
    rows = len(prepared.checkpoints_of(group))
    coordinates = apply.coordinates(group.measure, prepared.settings[group.name])
    size, files = 0, rows + 1  # a pack for each row; the metadata of the trajectories
    for variable in group.measure.variables:
        shape = [len(coordinates[dim]) for dim in variable.dims[1:]]
        half = variable.name in group.options.float16
        dtype = np.dtype("float16" if half else variable.dtype)
        each = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        size += rows * each
        files += (rows if each > LARGE else 0) + 1 + shards((rows, *shape), dtype.itemsize)
    return _Size(size, files + 2 * (len(LABELS) + len(coordinates)))
