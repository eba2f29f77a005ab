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
from pipeline.analysis.plan import Plan, plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from pipeline.measures import registry
from pipeline.measures.base import Measure, Setting
from pipeline.models.resident import Resident
from tests.pipeline.checkpoints.conftest import hub, s3, s3_server  # noqa: F401
from tests.pipeline.checkpoints.servers import Hub, Proxy
from tests.pipeline.checkpoints.test_s3 import upload
from tests.pipeline.measures.measuring import of_weights

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


def used_bytes(run: Path, names: Callable[[str], bool]) -> int:
    """Return the bytes, in all files of a run, of the tensors with some names."""
    total = 0
    for file in run.glob("*/*.safetensors"):
        with safe_open(file, "pt") as opened:
            for name in filter(names, opened.keys()):
                tensor = opened.get_tensor(name)
                total += tensor.numel() * tensor.element_size()
    return total


def is_used(name: str) -> bool:
    """Return whether `MEASURES` read a tensor of a llama: all but the MLPs and their norms."""
    return "mlp" not in name and "post_attention" not in name


def large_run(folder: Path, **how: object) -> Path:
    """Write a run whose tensors are large beside what is read at the beginning of each file."""
    shape = {"hidden_size": 256, "intermediate_size": 2048, "vocab_size": 2000}
    return write_run(folder, "llama", **shape, **how)


@pytest.mark.parametrize("shard", ["50MB", "6MB"])
def test_s3_sends_no_more_than_the_used_tensors(
    shard: str, s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = large_run(tmp_path / "run", max_shard_size=shard)
    uri = upload(run)
    used = used_bytes(run, is_used)
    store = tmp_path / "a.zarr"
    # The audit and the listing have bytes of their own.
    estimate = dry_run(analysis_of(uri, store))
    s3.forget()
    assert analysed(uri, store).computed == [0, 1]
    assert used < s3.bytes_sent < 1.05 * used < used_bytes(run, lambda name: True) / 2
    assert estimate.bytes_to_fetch == pytest.approx(used, rel=0.03)
    assert estimate.bytes_to_fetch + estimate.bytes_skipped == sum(
        path.stat().st_size for path in run.glob("*/*.safetensors")
    )
    assert "that no measure reads" in dict(estimate.rows())["to fetch"]
    # Known by the ETags: nothing is fetched again.
    s3.forget()
    assert analysed(uri, store).complete == 2
    assert s3.bytes_sent < 0.05 * used
    with whole(monkeypatch):
        analysed(str(run), tmp_path / "b.zarr")
    assert_same(store, tmp_path / "b.zarr")


def test_the_hub_sends_no_more_than_the_used_tensors(hub: Hub, tmp_path: Path) -> None:
    run = large_run(tmp_path / "run", max_shard_size="6MB")
    hub.add_run("some/model", run)
    store = tmp_path / "a.zarr"
    estimate = dry_run(analysis_of("hf://some/model", store))
    hub.forget()
    assert analysed("hf://some/model", store).computed == [0, 1]
    used = used_bytes(run, is_used)
    assert used < hub.bytes_sent + hub.cdn.bytes_sent < 1.05 * used
    assert estimate.bytes_to_fetch == pytest.approx(used, rel=0.03)
    # The Hub lists the sha256 of whole files, which identify the rows.
    assert analysed(run, tmp_path / "whole.zarr", {"weight_norm": {}}).computed == [0, 1]
    assert digests(store)["copying"] == digests(tmp_path / "whole.zarr")["weight_norm"]


def characters_read() -> int:
    """Return the bytes that this process has read from files and sockets so far."""
    found = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(found["rchar"])


def test_a_disk_reads_no_more_than_the_used_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = large_run(tmp_path / "run")
    used = used_bytes(run, is_used)
    analysis = analysis_of(run, tmp_path / "a.zarr")
    worker, planned = prepared_worker(analysis)
    before = characters_read()
    for cell in planned.cells:
        assert set(worker.compute(cell, planned).computed) == set(MEASURES)
    assert used < characters_read() - before < 1.05 * used
    assert dry_run(analysis).bytes_to_read == pytest.approx(used, rel=0.03)
    # A second analysis knows from the files' state that nothing is missing.
    assert analyze(analysis).complete == 2


def prepared_worker(analysis: Analysis) -> tuple[Worker, Plan]:
    prepared = prepare(analysis, survey(analysis))
    return Worker(prepared.job), plan(prepared, {})


def test_weights_that_were_not_read_have_no_values(tmp_path: Path) -> None:
    """Nothing of the checkpoint before is left in the resident model."""
    run = write_run(tmp_path / "run")
    measures = {**MEASURES, "token_loss.text": {"select": {"steps": [0]}, **LOSS}}
    analysis = analysis_of(run, tmp_path / "a.zarr", measures, inputs=INPUTS)
    worker, planned = prepared_worker(analysis)
    worker.compute(planned.cells[0], planned)
    assert not any(one.is_meta for one in worker._resident.weights.values())
    worker.compute(planned.cells[1], planned)
    unread = {name for name, one in worker._resident.weights.items() if one.is_meta}
    assert unread == {name for name in worker._resident.weights if not is_used(name)}
    expected = load_file(run / "step-1/model.safetensors")
    for name, tensor in worker._resident.weights.items():
        assert name in unread or torch.equal(tensor, expected[name])


def test_forward_passes_after_reading_in_part_are_those_of_the_whole_model(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=(0, 1, 2))
    losses = {"token_loss.text": {"select": {"steps": [0, 2]}, **LOSS}}
    analysed(run, tmp_path / "both.zarr", {**MEASURES, **losses}, inputs=INPUTS)
    analysed(run, tmp_path / "losses.zarr", losses, inputs=INPUTS)
    both, alone = values(tmp_path / "both.zarr"), values(tmp_path / "losses.zarr")
    assert all(array.tobytes() == both[name].tobytes() for name, array in alone.items())


LOSS = {"early_token": 3, "late_token": 8}
INPUTS = {"text": {"kind": "repeated", "block_length": 8, "sequences": 2}}
