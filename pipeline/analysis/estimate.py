"""Estimate of the cost of an analysis, and all its faults: no weights are read.

Nothing is written but a probe of the store's place, which is removed again.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.filesize import decimal

from pipeline.analysis.faults import Fault, Faults
from pipeline.analysis.job import Group, Prepared
from pipeline.analysis.machine import (
    device_faults,
    machine_faults,
    machine_notes,
    product_fault,
)
from pipeline.analysis.needed_bytes import needed_bytes
from pipeline.analysis.preflight import FaultsOf, preflight
from pipeline.analysis.survey import Survey
from pipeline.analysis.weights import weight_bytes
from pipeline.checkpoints import LeftOut
from pipeline.checkpoints.left_out import in_lines
from pipeline.checkpoints.places import remote_place_of
from pipeline.config import Analysis, Workers
from pipeline.engine.record import Pass, merge
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.models.architecture import torch_dtype
from pipeline.models.facts import ModelFacts
from pipeline.store.chunk_shapes import shards
from pipeline.store.packs import LARGE
from pipeline.store.templates import LABELS

_OVERHEAD = 1.25  # time of a forward pass over that of its matrix products
_SECONDS = 0.2  # duration of the timing of products
_WIDEST = 2048  # of the products that are timed: wider ones are as fast, and take memory
_CONTROL_FILES = 8  # versions, a lease, and where other tools begin


@dataclass(frozen=True)
class Estimate:
    """The cost of a first run of an analysis, with an empty store.

    left_out: files and folders that may be checkpoints but were not listed, with the reasons.
    bytes_to_fetch: over the network; 0 for a local run. bytes_skipped: of the weights that no
    measure reads, and which are not fetched or read. forward_passes: over one input each.
    hours: of computing on the configured workers, from the matrix products of the forward passes
    and their speed on this machine now; fetching, reading and the measures add to it where they
    take longer; None where this machine lacks the workers' device. store_bytes, store_files: of the
    rows and of the trajectories, which hold the same numbers; the bytes before compression. notes:
    see `pipeline.analysis.job.Prepared`, and on settings with which this machine is slow. failed:
    the steps that cannot be computed, as their config.json or the headers of their weight files
    show, with the reasons. undefined: see `Prepared`. drawn_from: the token ids from which each
    random input draws, and the reason. inputs: how texts and data sets were cut into sequences, by
    input. faults: everything that the analysis would refuse; the amounts are then those of the
    groups without a fault, and 0 where none is left.
    """

    checkpoints: int = 0
    masked: int = 0
    masked_steps: Mapping[int, str] = field(default_factory=dict)
    bytes_to_fetch: int = 0
    bytes_to_read: int = 0
    bytes_skipped: int = 0
    forward_passes: int = 0
    hours: float | None = None
    store_bytes: int = 0
    store_files: int = 0
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    drawn_from: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the rows of a table for people: a name, and an amount with its unit.

        Those of costs are left out where a fault leaves nothing to compute.
        """
        masked = f" ({self.masked} masked by the audit)" if self.masked else ""
        failed = f" ({len(self.failed)} cannot be computed)" if self.failed else ""
        if not (self.checkpoints or self.masked or self.failed):
            return
        yield "checkpoints", f"{self.checkpoints}{masked}{failed}"
        for line in in_lines(self.left_out):
            yield "left out", line
        for step, reason in self.masked_steps.items():
            yield f"step {step:,}", f"is left out: {reason}"
        skipped = f" (without {decimal(self.bytes_skipped)} that no measure reads)"
        skipped = skipped if self.bytes_skipped else ""
        yield "to fetch", f"{decimal(self.bytes_to_fetch)}{skipped if self.bytes_to_fetch else ''}"
        yield "to read", f"{decimal(self.bytes_to_read)}{skipped}"
        if not self.store_files:
            return
        yield "forward passes", str(self.forward_passes)
        if self.hours is not None:
            yield "hours of computing", f"{self.hours:.2g}" if self.hours >= 0.01 else "under 0.01"
        files = f"{self.store_files:,} files"
        yield "store", f"{decimal(self.store_bytes)} before compression, in {files}"
        yield from ((f"tokens of {name}", source) for name, source in self.drawn_from.items())
        yield from ((f"input {name}", said) for name, said in self.inputs.items())


def dry_run(analysis: Analysis, faults_of: FaultsOf = machine_faults) -> Estimate:
    """Estimate an analysis, and find everything that it would refuse. Reads no weights.

    faults_of: see `pipeline.analysis.preflight`. Raises OSError where nothing is wrong but that a
    storage does not answer.
    """
    tried = preflight(analysis, faults_of)
    surveyed, prepared, faults = tried.surveyed, tried.prepared, tried.faults
    costs: dict[str, Any] = {}
    if prepared is not None:
        costs = _costs(replace(prepared, failed=tried.failed), faults)
    if error := faults.unreachable:
        raise error
    if surveyed is not None:
        costs |= _reading(surveyed, prepared, tried.failed)
    notes = prepared.notes if prepared else ()
    return Estimate(
        **costs,
        notes=(*notes, *machine_notes(analysis.workers)),
        failed=tried.failed,
        faults=faults.found,
    )


def _reading(
    surveyed: Survey, prepared: Prepared | None, failed: Mapping[int, str]
) -> dict[str, Any]:
    """Return what an estimate says of the checkpoints to read."""
    read = [one for one in surveyed.checkpoints if one.step not in failed]
    whole = weight_bytes(read)
    sizes = whole if prepared is None else needed_bytes(prepared, read, whole)
    remote = [remote_place_of(one.uri) is not None for one in read]
    return {
        "checkpoints": len(read),
        "masked": len(surveyed.masked),
        "masked_steps": surveyed.masked,
        "bytes_to_fetch": sum(s for s, is_remote in zip(sizes, remote, strict=True) if is_remote),
        "bytes_to_read": sum(sizes),
        "bytes_skipped": sum(whole) - sum(sizes),
        "left_out": surveyed.left_out,
    }


def _costs(prepared: Prepared, faults: Faults) -> dict[str, Any]:
    """Return what an estimate says of computing and storing. Adds a fault of the device."""
    workers = prepared.job.analysis.workers
    facts = next(iter(prepared.settings.values())).model
    forward_passes, products = 0, 0.0
    # Most checkpoints compute the same groups, and so the same passes: these are merged once.
    for groups, checkpoints in Counter(_groups_by_checkpoint(prepared)).items():
        passes = _passes(prepared, groups)
        forward_passes += checkpoints * len(passes)
        each = (_products(facts, prepared.inputs[one.input], one) for one in passes)
        products += checkpoints * sum(each)
    seconds = None
    if not list(device_faults(workers)):  # else the machine that computes is another one
        if fault := product_fault(workers):
            faults.add(fault)
        else:
            speed = _products_per_second(workers, facts.d_model) if products else 1.0
            seconds = _OVERHEAD * products / speed / workers.count
    sizes = [_size(prepared, group) for group in prepared.job.groups]
    return {
        "forward_passes": forward_passes,
        "hours": None if seconds is None else seconds / 3600,
        "store_bytes": 2 * sum(size.bytes for size in sizes),
        "store_files": _CONTROL_FILES + len(prepared.inputs) + sum(size.files for size in sizes),
        "undefined": prepared.undefined,
        "drawn_from": prepared.drawn_from,
        "inputs": prepared.said_of_inputs,
    }


def _groups_by_checkpoint(prepared: Prepared) -> Iterable[tuple[Group, ...]]:
    """Return the groups to compute at each checkpoint."""
    groups: dict[int, tuple[Group, ...]] = {one.step: () for one in prepared.checkpoints}
    for group in prepared.job.groups:
        for checkpoint in prepared.checkpoints_of(group):
            groups[checkpoint.step] += (group,)
    return groups.values()


def _passes(prepared: Prepared, groups: Iterable[Group]) -> list[Pass]:
    return merge(
        wanted for group in groups for wanted in group.measure.passes(prepared.settings[group.name])
    )


def _products(facts: ModelFacts, made: Input, pass_: Pass) -> float:
    """Return the multiplications and additions of one pass.

    Each weight is used once per token, with 12 d^2 weights per layer (4 d^2 in attention, 8 d^2 in
    the MLP) and those of W_U; attention adds two products over all positions.
    """
    sequences, length = made.tokens.shape
    layers = facts.n_layers - (pass_.change.first_layer if pass_.change else 0)
    per_layer = 12 * facts.d_model**2 + 2 * length * facts.d_model
    weights = layers * per_layer + facts.vocabulary * facts.d_model
    return 2.0 * weights * sequences * length


def _products_per_second(workers: Workers, d_model: int) -> float:
    device = torch.device(workers.device)
    d_model = min(d_model, _WIDEST)
    # The product of the MLP, for 512 tokens: enough to reach the speed of large batches.
    left = torch.ones(512, d_model, dtype=torch_dtype(workers.dtype), device=device)
    right = torch.ones(d_model, 4 * d_model, dtype=left.dtype, device=device)
    times, started = [], time.perf_counter()
    # Several times, and then the median: the first product also loads libraries.
    while time.perf_counter() - started < _SECONDS or len(times) < 3:
        before = time.perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()  # kernels run asynchronously
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
