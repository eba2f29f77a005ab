"""Records of passes and of changed heads, on the device in float32 against float64 on the CPU.

Attention that is looked up is compared with transformers' own eager matrices on the CPU; what is
reduced during the pass, and the passes with changed heads, with this engine on the CPU, which the
tests compare with whole matrices. Errors are relative to the largest number compared, or to 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.engine import forward
from pipeline.engine.batches import Limits
from pipeline.engine.changes import run_changed
from pipeline.engine.record import (
    PATTERNS,
    Corner,
    Entropy,
    HeadChange,
    KeyMap,
    KeyPosition,
    Lag,
    LagMeans,
    OutputOn,
    Pass,
    ReadFrom,
    Record,
    merge,
)
from pipeline.inputs import Input
from pipeline.models.layers import uses_interface
from pipeline.models.resident import Resident
from tests.gpu.report import Report
from tests.gpu.worst import Worst
from tests.pipeline.families import DTYPES, FAMILIES, VOCABULARY, eager_model, matrices
from tests.pipeline.looked_up import entries

# Errors of float32 after three layers of large random weights; TF32 or half precision are coarser.
LIMIT = 5e-5
FAMILIES_CHECKED = (
    "gpt_neox", "llama", "mistral", "gemma2", "gpt_oss", "gptj", "bloom", "gpt_neo", "mpt", "phi",
    "persimmon", "stablelm", "falcon", "falcon_alibi",
)  # fmt: skip
SMALL = ("llama", "gptj", "bloom", "gpt_neo")
CHANGED = ("llama", "gpt_neox", "gptj")
SEQUENCES, LENGTH = 5, 150  # more than the rows of one block of a reduction
LONGER = {"max_position_embeddings": 160}
SETTING = {"gptj": {"n_positions": 160}, "bloom": {}, "mpt": {"max_seq_len": 160}}
RNG = np.random.default_rng(0)
TOKENS = {name: RNG.integers(3, VOCABULARY, (SEQUENCES, LENGTH)) for name in ("x", "y")}
# Bloom takes its softmax in float32, where float64's mask overflows: a padded sequence is all NaN.
ORACLES = DTYPES | {"bloom": "float32"}
BACK = np.maximum(np.arange(LENGTH) - 5, -1)
LOOKED_UP = (
    Lag(0),
    Lag(1),
    Lag(140),
    KeyPosition(0),
    KeyPosition(3),
    KeyMap(np.tile(BACK, (SEQUENCES, 1))),
    KeyMap(RNG.integers(-1, np.arange(LENGTH) + 1, (SEQUENCES, LENGTH))),
    KeyMap(np.full((SEQUENCES, LENGTH), -1)),
)
REDUCED = (LagMeans(1), LagMeans(40), LagMeans(LENGTH), Entropy(), Corner(2, 9), Corner(9, 140))
# `None`: enough for all sequences in one batch. A small one: each sequence is a batch of its own.
MEMORY = (None, 1)


@dataclass(frozen=True)
class Near:
    """A rule that allows keys fewer than `reach` positions back, and keys with the same token."""

    reach: int

    def allowed(self, tokens: Tensor, queries: range, keys: range) -> Tensor:
        i, j = (torch.arange(of.start, of.stop, device=tokens.device) for of in (queries, keys))
        same = tokens[:, i, None] == tokens[:, None, j]
        return same | (i[:, None] - j < self.reach)


def run(report: Report) -> None:
    """Check records of several families without and with padding, and then changed heads."""
    families = SMALL if report.small else FAMILIES_CHECKED
    jobs = [(_records, name) for name in families]
    jobs += [(_changes, name) for name in CHANGED if name in families]
    for check, name in jobs:
        what = f"{check.__name__.strip('_')} of {name}"
        report.attempt(what, partial(check, report, name))


def _residents(report: Report, name: str) -> tuple[Resident, Resident]:
    """Return the same model on the device in float32, and on the CPU, in float64 if it can."""
    config = FAMILIES[name](**SETTING.get(name, LONGER))
    state = eager_model(config, "float32").state_dict()
    found = (Resident(config, report.device, "float32"), Resident(config, "cpu", ORACLES[name]))
    for resident in found:
        resident.swap({key: tensor.clone() for key, tensor in state.items()})
    return found


def _inputs() -> dict[str, Input]:
    """Return an input without padding, and others with padding before and after the tokens."""
    before, after = np.ones((2, SEQUENCES, LENGTH), dtype=np.int64)
    for s, n in enumerate((0, 3, 20, 131, 0)):
        before[s, :n] = 0
        after[s, LENGTH - n :] = 0
    masks = {"none": {}, "before": {"attention_mask": before}, "after": {"attention_mask": after}}
    return {kind: Input("x", "array", TOKENS["x"], mask) for kind, mask in masks.items()}


def _records(report: Report, name: str) -> None:
    there, here = _residents(report, name)
    n = there.facts.n_layers
    wanted = Pass("x", True, frozenset((*LOOKED_UP, *REDUCED)), (0, -1),
                  head_outputs=tuple(range(n)), hidden_states=tuple(range(n + 1)))  # fmt: skip
    worst = Worst(report)
    for padding, made in _inputs().items():
        expected = _parts(forward.run(here, made, wanted))
        for memory in MEMORY:
            found = _parts(forward.run(there, made, wanted, Limits(memory)))
            at = {"padding": padding, "batches": 1 if memory is None else SEQUENCES}
            _compare(worst, found, expected, {"model": name, "dtype": "float32"}, at)
            if padding == "none" and memory is None:
                _against_matrices(report, name, found)
    worst.print()


def _against_matrices(report: Report, name: str, found: Mapping[str, Tensor]) -> None:
    """Compare what was looked up with the matrices of transformers' own eager attention."""
    config = FAMILIES[name](**SETTING.get(name, LONGER))
    model = eager_model(config, "float32").to(getattr(torch, DTYPES[name]))
    whole, _, _ = matrices(model, torch.from_numpy(TOKENS["x"]))
    expected = {_name(request): entries(whole, request) for request in LOOKED_UP}
    looked_up = {key: found[key] for key in expected}
    error, where = _worst(looked_up, expected)
    labels = {"model": name, "dtype": "float32", "where": where}
    report.figure("attention beside whole matrices", error, at_most=LIMIT, **labels)


def _compare(
    worst: Worst,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    labels: Mapping[str, object],
    at: Mapping[str, object],
) -> None:
    """Take the largest error of each kind of record, which the first word of a name tells."""
    kinds = dict.fromkeys(key.split()[0] for key in expected)
    for kind in kinds:
        own = {key: tensor for key, tensor in expected.items() if key.split()[0] == kind}
        error, where = _worst({key: found[key] for key in own}, own)
        worst.add(kind, error, LIMIT, labels, {**at, "where": where})


def _worst(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str]:
    """Return the largest relative error and its name; NaN where NaN is in other places."""
    errors: dict[str, float] = {}
    for key, tensor in expected.items():
        own, scale = found[key].double(), tensor.double().nan_to_num().abs().max().clamp(min=1)
        if own.shape != tensor.shape or not torch.equal(own.isnan(), tensor.isnan()):
            return float("nan"), key
        difference = (own - tensor).abs().nan_to_num().max() if own.numel() else 0.0
        errors[key] = float(difference / scale)
    where = max(errors, key=errors.__getitem__)
    return errors[where], where


def _name(request: object) -> str:
    if isinstance(request, KeyMap):
        return f"KeyMap {LOOKED_UP.index(request)}"
    # Such as "LagMeans (n_lags=40)".
    return str(request).replace("(", " (", 1)


def _parts(record: Record) -> dict[str, Tensor]:
    """Return all tensors of a record by name; the first word is its kind.

    What is recorded of padding, which nothing reads, is NaN: some families round it to anything.
    """
    mask = record.input.arrays.get("attention_mask", np.ones_like(record.input.tokens))
    padding = torch.from_numpy(mask == 0)

    def seen(tensor: Tensor, blank: Tensor) -> Tensor:
        outer = blank.view(*blank.shape, *(1,) * (tensor.ndim - blank.ndim))
        return tensor.masked_fill(outer, torch.nan)

    heads, states = record.head_outputs.items(), record.hidden_states.items()
    return {
        "loss": record.kept_loss,
        **{_name(request): tensor for request, tensor in record.attention.items()},
        **{f"logits {at}": seen(tensor, padding[:, at]) for at, tensor in record.logits.items()},
        **{f"head_outputs {at}": seen(tensor, padding) for at, tensor in heads},
        **{f"hidden_states {at}": seen(tensor, padding) for at, tensor in states},
    }


def _changes(report: Report, name: str) -> None:
    """Check passes with changed heads: of all kinds, each beside another in one batch."""
    there, here = _residents(report, name)
    worst = Worst(report)
    heads = ((1, 3), (2, 0))
    changes = {
        "zero": [HeadChange(heads), HeadChange(((1, 0),))],
        "mean": [HeadChange(heads, "mean")],
        "another input": [HeadChange(heads, OutputOn("y")), HeadChange(((0, 2),), OutputOn("y"))],
    }
    if uses_interface(here.module):
        changes |= {
            "kept patterns": [
                HeadChange(heads, kept=PATTERNS),
                HeadChange(((1, 1),), kept=PATTERNS),
            ],
            "kept values": [HeadChange(heads, "mean", frozenset({"values"}))],
            "parts": [HeadChange(heads, ReadFrom(Near(20), "mean"))],
            "parts, rest zero": [HeadChange(heads, ReadFrom(Near(1), "zero"))],
        }
    repeated = np.concatenate([TOKENS["x"][:, :70], TOKENS["x"][:, :70]], axis=1)
    inputs = {"x": Input("x", "array", repeated), "y": Input("y", "array", TOKENS["y"][:, :140])}
    for kind, of_kind in changes.items():
        passes = [
            Pass("x", True, logit_positions=(-1,), head_outputs=(1, 2), hidden_states=(3,),
                 change=one)
            for one in of_kind
        ]  # fmt: skip
        expected, found = (_changed(one, inputs, passes) for one in (here, there))
        for one in passes:
            error, where = _worst(_parts(found[one.key]), _parts(expected[one.key]))
            labels = {"model": name, "change": kind, "dtype": "float32"}
            worst.add("changed heads", error, LIMIT, labels, {"where": where})
    worst.print()


def _changed(
    resident: Resident, inputs: Mapping[str, Input], passes: list[Pass]
) -> dict[tuple, Record]:
    needed = [one for one in merge(passes) if one.change is None]
    before = {one.key: forward.run(resident, inputs[one.input], one) for one in needed}
    return run_changed(resident, inputs, passes, before)
