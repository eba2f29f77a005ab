"""Measures of the weights alone read only the tensors that they need, with the same results."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from s3fs import S3FileSystem
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipeline import Analysis, Summary, analyze, open_run
from pipeline.analysis.estimate import dry_run
from pipeline.measures import registry
from pipeline.measures.base import Measure, Setting
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import of_weights

pytest_plugins = ("tests.pipeline.checkpoints.conftest",)

KINDS = {
    "llama": {"hidden_size": 64, "intermediate_size": 512, "num_key_value_heads": 2},
    "tied": {"hidden_size": 64, "intermediate_size": 512, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 256},
    "gemma2": {"hidden_size": 64, "intermediate_size": 256, "head_dim": 16},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
}
MEASURES = {"copying": {}, "composition": {}, "weight_norm": {"of": "attention"}}


def model(kind: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 101}
    config = AutoConfig.for_model(
        "llama" if kind == "tied" else kind,
        **{**shape, "max_position_embeddings": 32, **KINDS[kind], **changes},
    )
    return AutoModelForCausalLM.from_config(config)


def write_run(folder: Path, kind: str = "llama", steps: Sequence[int] = (0, 1), **how) -> Path:
    """Write checkpoints; how: `dtype` of the weights, `max_shard_size`, or of the model."""
    dtype, shard = how.pop("dtype", torch.float32), how.pop("max_shard_size", "5GB")
    for step in steps:
        made = model(kind, step, **how).to(dtype)
        made.save_pretrained(folder / f"step-{step}", max_shard_size=shard)
    return folder


def analysed(run: object, store: Path, measures: dict = MEASURES, **changes: object) -> Summary:
    return analyze(analysis_of(run, store, measures, **changes))


def analysis_of(run: object, store: Path, measures: dict = MEASURES, **changes) -> Analysis:
    return Analysis.model_validate(
        {"checkpoints": str(run), "store": str(store), "measures": measures, **changes}
    )


def values(store: Path) -> dict[str, np.ndarray]:
    return {
        f"{group}/{name}": array.values
        for group, dataset in open_run(str(store)).children.items()
        for name, array in dataset.data_vars.items()
        if array.dtype.kind in "fi"
    }


def digests(store: Path) -> dict[str, list[str]]:
    return {g: d["digest"].values.tolist() for g, d in open_run(str(store)).children.items()}


def assert_same(one: Path, other: Path) -> None:
    first, second = values(one), values(other)
    assert first.keys() == second.keys() and first
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name


@contextmanager
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every measure ask for all weights, as measures of a user's own do."""
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.measures.apply.weights_read", lambda measure, setting: None)
        yield


def weights_only() -> list[type[Measure]]:
    return [kind for kind in registry().values() if kind.default_input is None]


def variants(kind: type[Measure]) -> list[Measure]:
    if kind.name == "weight_norm":
        return [kind(), *(kind(of=part) for part in ("attention", "mlp", "embeddings"))]
    if kind.name == "joined_ov_rank":
        return [kind(), kind(heads=((1, 0), (1, 2)))]
    return [kind()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_measure_reads_no_weights_but_those_that_it_declares(kind: str) -> None:
    state = model(kind).state_dict()
    resident = Resident(model(kind).config)
    for measure in (one for of in weights_only() for one in variants(of)):
        resident.swap(state)
        setting = Setting(resident.facts)
        expected = of_weights(measure, resident.weights)
        declared = measure.weights_read(setting)
        for name, parameter in resident.module.named_parameters():
            if name not in declared:
                parameter.data = torch.full_like(parameter, torch.nan)
        found = of_weights(measure, resident.weights)
        alone = of_weights(measure, resident.weights.only(declared))
        for name, value in expected.items():
            assert np.asarray(value).tobytes() == np.asarray(found[name]).tobytes(), name
            assert np.asarray(value).tobytes() == np.asarray(alone[name]).tobytes(), name


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bloom"])
def test_a_measure_declares_no_weights_that_it_does_not_read(kind: str) -> None:
    """Each declared tensor, when it becomes NaN, changes a result."""
    state = model(kind).state_dict()
    resident = Resident(model(kind).config)
    setting = Setting(resident.facts)
    for measure in (one for of in weights_only() for one in variants(of)):
        for name in measure.weights_read(setting):
            resident.swap(state)
            parameter = resident.module.get_parameter(name)
            parameter.data = torch.full_like(parameter, torch.nan)
            found = of_weights(measure, resident.weights)
            assert any(not np.isfinite(value).all() for value in found.values()), (measure, name)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("llama", {}),
        ("llama", {"max_shard_size": "60KB"}),
        ("llama", {"dtype": torch.bfloat16}),
        ("tied", {"dtype": torch.float16}),
        ("gpt2", {}),
        ("gpt_neox", {"max_shard_size": "60KB", "dtype": torch.bfloat16}),
        ("bloom", {}),
    ],
)
def test_results_are_those_of_reading_all(
    kind: str, how: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", kind, **how)
    some, everything = tmp_path / "some.zarr", tmp_path / "all.zarr"
    assert analysed(run, some).computed == [0, 1]
    with whole(monkeypatch):
        assert analysed(run, everything).computed == [0, 1]
    assert_same(some, everything)
    # Not of the whole file, which was not read; of the whole file, which was.
    assert set(digests(some)["copying"]).isdisjoint(digests(everything)["copying"])
