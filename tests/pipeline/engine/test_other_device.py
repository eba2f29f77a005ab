"""Models on another device than the CPU: nothing mixes devices, and the numbers are the CPU's.

The device is simulated (`tests/simulated_device.py`): it refuses what a GPU refuses, and computes
on the CPU.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.engine import recorder
from pipeline.engine.batches import Limits
from pipeline.engine.forward import run
from pipeline.engine.record import (
    AttentionRequest,
    Corner,
    Entropy,
    KeyMap,
    KeyPosition,
    Lag,
    LagMeans,
    Pass,
    Record,
)
from pipeline.inputs import Input
from pipeline.models.resident import Resident
from tests.pipeline.families import DTYPES, FAMILIES, eager_model
from tests.pipeline.measures.test_nonfinite import ON_TABLES, ON_TEXT, computed, inputs_for
from tests.pipeline.modular_organisms import adding_model, random_model, table_input
from tests.simulated_cuda import simulated_cuda
from tests.simulated_device import SimulatedTensor

# One of each kind: by name and by hooks, merged experts, softcaps, sinks, windows, tied weights,
# biases of attention. Others differ in transformers' code alone.
SEVERAL = (
    "organism", "organism_smeared", "gpt2", "gpt_neox", "mixtral", "gemma2", "gpt_oss", "bloom",
    "falcon_alibi", "mpt",
)  # fmt: skip
LENGTH = 14

State = Mapping[str, Tensor]


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with simulated_cuda():
        yield


def both(family: str, dtype: str) -> tuple[Resident, Resident]:
    """Return a model of a family on the CPU and on the device."""
    config = FAMILIES[family]()
    return residents(config, eager_model(config, dtype).state_dict(), dtype)


def residents(config: object, state: State, dtype: str) -> tuple[Resident, Resident]:
    pair = Resident(config, "cpu", dtype), Resident(config, "cuda", dtype)  # type: ignore[arg-type]
    for one in pair:
        one.swap(dict(state))
    assert all(isinstance(w, SimulatedTensor) for w in pair[1].weights.values())
    return pair


def padded() -> tuple[Input, list[AttentionRequest]]:
    tokens = np.random.default_rng(0).integers(3, 90, (3, LENGTH))
    mask = np.ones_like(tokens)
    mask[1, 9:] = mask[2, 5:] = 0
    index = np.random.default_rng(1).integers(-1, LENGTH, tokens.shape)
    index = np.minimum(index, np.arange(LENGTH))
    made = Input("text", "array", tokens, {"attention_mask": mask})
    return made, [Lag(2), KeyPosition(1), KeyMap(index), LagMeans(8), Entropy(), Corner(2, 5)]


def assert_same(own: Record, expected: Record, tolerance: float) -> None:
    close: Callable[..., None] = torch.testing.assert_close
    limits = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
    if expected.loss is not None:
        close(own.loss, expected.loss, **limits)
    for name in ("attention", "logits", "head_outputs", "hidden_states"):
        for key, tensor in getattr(expected, name).items():
            close(getattr(own, name)[key], tensor, **limits)


@pytest.mark.parametrize("family", SEVERAL)
def test_all_requests_are_recorded_under_padding_as_on_a_cpu(family: str) -> None:
    cpu, other = both(family, DTYPES[family])
    made, requests = padded()
    if family == "organism_smeared":  # which refuses padding
        made = replace(made, arrays={})
    wanted = Pass(
        "text", losses=True, attention=frozenset(requests), logit_positions=(-1, 2),
        head_outputs=(0, 2), hidden_states=(0, 1, 3),
    )  # fmt: skip
    tolerance = 1e-9 if DTYPES[family] == "float64" else 1e-4
    little = Limits(1 << 14)  # so that there is more than one batch
    assert_same(run(other, made, wanted, little), run(cpu, made, wanted, little), tolerance)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_the_kernels_of_a_gpu_are_called_with_what_they_take(
    family: str, dtype: str, tolerance: float
) -> None:
    cpu, other = both(family, dtype)
    made, requests = padded()
    for one in (made, Input("text", "array", made.tokens)):
        wanted = Pass("text", losses=True, attention=frozenset(requests))
        assert_same(run(other, one, wanted), run(cpu, one, wanted), tolerance)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", ["gpt2", "gpt_oss", "bloom"])
def test_every_measure_of_text_is_that_of_the_cpu(family: str) -> None:
    cpu, other = both(family, DTYPES[family])
    inputs = inputs_for(cpu)
    assert_equal(computed(other, ON_TEXT, inputs), computed(cpu, ON_TEXT, inputs))


@pytest.mark.parametrize("made", [random_model(11), adding_model(7, [2, 3])], ids=["11", "7"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_measure_of_a_table_is_that_of_the_cpu(made: object, dtype: str) -> None:
    state = {k: v.to(getattr(torch, dtype)) for k, v in made.state_dict().items()}  # type: ignore[attr-defined]
    cpu, other = residents(made.config, state, dtype)  # type: ignore[attr-defined]
    inputs = {"table": table_input(cpu.facts.vocabulary - 1)}
    assert_equal(computed(other, ON_TABLES, inputs), computed(cpu, ON_TABLES, inputs))


def assert_equal(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        scale = np.abs(value[np.isfinite(value)].astype(float)).max(initial=0)
        tolerance = 1e-5 * scale  # of float32: most passes are computed in it
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)


def test_infinite_weights_are_blanked_and_then_replaced() -> None:
    config = FAMILIES["llama"]()
    state = eager_model(config, "float32").state_dict()
    made, _ = padded()
    wanted = Pass("text", losses=True)
    cpu, other = residents(config, state, "float32")
    infinite = {**state, "lm_head.weight": torch.full_like(state["lm_head.weight"], torch.inf)}
    other.swap(infinite)
    assert run(other, made, wanted).kept_loss.isnan().all()
    doubled = {name: tensor * 1.5 for name, tensor in state.items()}
    for one in (cpu, other):
        one.swap(dict(doubled))
    assert_same(run(other, made, wanted), run(cpu, made, wanted), 1e-4)


def test_a_mask_left_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: without the move of the padding's mask a GPU would refuse the pass."""
    real = recorder.reduced
    monkeypatch.setattr(
        recorder, "reduced", lambda request, of, defined: real(request, of, defined.cpu())
    )
    _, other = both("llama", "float32")
    made, _ = padded()
    with pytest.raises(RuntimeError, match=r"same device.*cpu and cuda:0"):
        run(other, made, Pass("text", attention=frozenset({Entropy()})))
