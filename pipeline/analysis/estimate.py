"""Estimate of the cost of an analysis: nothing is written, and no weights are read."""

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
from pipeline.models.architecture import torch_dtype
from pipeline.models.facts import ModelFacts

_OVERHEAD = 1.25  # time of a forward pass over that of its matrix products
_SECONDS = 0.2  # duration of the timing of products


@dataclass(frozen=True)
class Estimate:
    """The cost of a first run of an analysis, with an empty store.

    left_out: files and folders that may be checkpoints but were not listed, with the reasons.
    bytes_to_fetch: over the network; 0 for a local run. forward_passes: over one input each.
    hours: of computing on the configured workers, from the matrix products of the forward passes
    and their speed on this machine now; fetching, reading and the measures add to it where they
    take longer. store_bytes: before compression. notes: see `pipeline.analysis.plan.Prepared`.
    failed: the steps whose config.json is missing, truncated or another model's, with the reasons.
    drawn_from: the token ids from which each random input draws, and the reason.
    """

    checkpoints: int
    masked: int
    masked_steps: Mapping[int, str]
    bytes_to_fetch: int
    bytes_to_read: int
    forward_passes: int
    hours: float
    store_bytes: int
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)
    drawn_from: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the rows of a table for people: a name, and an amount with its unit."""
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
        yield "store", f"{decimal(self.store_bytes)} before compression"
        yield from ((f"tokens of {name}", source) for name, source in self.drawn_from.items())


def dry_run(analysis: Analysis) -> Estimate:
    """Estimate an analysis. Raises InputError for everything that the analysis would refuse."""
    surveyed = survey(analysis)
    prepared = resolve(analysis, surveyed)
    count = len(prepared.checkpoints)
    read = sum(_weight_bytes(prepared))
    facts = next(iter(prepared.settings.values())).model
    forward_passes, products = 0, 0.0
    # Most checkpoints compute the same groups, and so the same passes: these are merged once.
    for groups, checkpoints in Counter(_groups_by_checkpoint(prepared)).items():
        passes = _passes(prepared, groups)
        forward_passes += checkpoints * len(passes)
        each = (_products(facts, prepared.inputs[one.input], one) for one in passes)
        products += checkpoints * sum(each)
    speed = _products_per_second(analysis, facts.d_model) if products else 1.0
    seconds = _OVERHEAD * products / speed / analysis.workers.count
    return Estimate(
        checkpoints=count,
        masked=len(surveyed.masked),
        masked_steps=surveyed.masked,
        bytes_to_fetch=read if remote_place_of(analysis.checkpoints) else 0,
        bytes_to_read=read,
        forward_passes=forward_passes,
        hours=seconds / 3600,
        store_bytes=_row_bytes(prepared),
        left_out=surveyed.left_out,
        notes=prepared.notes,
        failed=prepared.failed,
        drawn_from=prepared.drawn_from,
    )


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


def _weight_bytes(prepared: Prepared) -> list[int]:
    """Return the bytes of each checkpoint's weights; 0 for those that are broken."""
    place = place_of(prepared.checkpoints[0].uri)
    sizes = []
    for checkpoint in prepared.checkpoints:
        try:
            sizes.append(sum(part.size for part in weight_parts(place, listed_folder(checkpoint))))
        except CheckpointError:
            sizes.append(0)
    return sizes


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


def _products_per_second(analysis: Analysis, d_model: int) -> float:
    workers = analysis.workers
    device = torch.device(workers.device if torch.cuda.is_available() else "cpu")
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


def _row_bytes(prepared: Prepared) -> int:
    """Return the uncompressed bytes of all rows of all groups."""
    total = 0
    for group in prepared.job.groups:
        rows = len(prepared.checkpoints_of(group))
        coordinates = apply.coordinates(group.measure, prepared.settings[group.name])
        for variable in group.measure.variables:
            shape = [len(coordinates[dim]) for dim in variable.dims[1:]]
            dtype = "float16" if variable.name in group.options.float16 else variable.dtype
            total += rows * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return total
