"""Measures of the weights alone read only the tensors that they need, with the same results."""

import re
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
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from pipeline import Analysis, Summary, analyze, open_run
from pipeline.analysis.estimate import dry_run
from pipeline.analysis.job import Plan
from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from pipeline.checkpoints import s3 as s3_module
from pipeline.checkpoints import tensor_ranges
from pipeline.errors import InputError
from pipeline.measures import registry
from pipeline.measures.base import Measure, Setting
from pipeline.models.architecture import without_memory
from pipeline.models.facts import ModelFacts
from pipeline.models.resident import Resident
from tests.pipeline import circuit_families, recurrent_families
from tests.pipeline.checkpoints.servers import Faults, Hub, Proxy
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


# Beside `KINDS`: norms of queries and keys, a norm after attention alone, fused matrices of grouped
# heads, matrices with biases, and layers that do not attend (of the last one, the first).
DECLARING = (*KINDS, "qwen3", "olmo2", "phi3", "opt", "falcon_h1", "jamba")


def declaring(kind: str) -> PreTrainedModel:
    if kind in KINDS:
        return model(kind)
    torch.manual_seed(0)
    of = recurrent_families if kind in recurrent_families.READ else circuit_families
    return AutoModelForCausalLM.from_config(of.config_of(kind))


@pytest.mark.parametrize("kind", DECLARING)
def test_a_measure_reads_no_weights_but_those_that_it_declares(kind: str) -> None:
    made = declaring(kind)
    state, resident = made.state_dict(), Resident(made.config)
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


@pytest.mark.parametrize("kind", [kind for kind in DECLARING if kind != "bloom"])
def test_a_measure_declares_no_weights_that_it_does_not_read(kind: str) -> None:
    """Each declared tensor, when it becomes NaN, makes a number NaN that was not."""
    made = declaring(kind)
    state, resident = made.state_dict(), Resident(made.config)
    setting = Setting(resident.facts)
    for measure in (one for of in weights_only() for one in variants(of)):
        resident.swap(state)
        finite = {n: np.isfinite(v) for n, v in of_weights(measure, resident.weights).items()}
        for name in measure.weights_read(setting):
            resident.swap(state)
            parameter = resident.module.get_parameter(name)
            parameter.data = torch.full_like(parameter, torch.nan)
            found = of_weights(measure, resident.weights)
            lost = (finite[n] & ~np.isfinite(value) for n, value in found.items())
            assert any(np.any(one) for one in lost), (measure, name)


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


def test_checkpoints_that_no_measure_selects_are_not_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=(0, 1, 2))
    size = (run / "step-0/model.safetensors").stat().st_size
    losses = {"token_loss.text": {"select": {"steps": [1]}, **LOSS}}
    estimate = dry_run(analysis_of(run, tmp_path / "a.zarr", losses, inputs=INPUTS))
    assert (estimate.bytes_to_read, estimate.bytes_skipped) == (size, 2 * size)
    both = {**losses, "copying": {"select": {"steps": [0, 1]}}}
    estimate = dry_run(analysis_of(run, tmp_path / "a.zarr", both, inputs=INPUTS))
    assert size < estimate.bytes_to_read < 2 * size
    # A quantity of the last checkpoint is needed at the one that is selected.
    (tmp_path / "own.py").write_text(OWN)
    of_last = {f"{tmp_path / 'own.py'}:SinceLast": {"select": {"steps": [0]}}}
    estimate = dry_run(analysis_of(run, tmp_path / "a.zarr", of_last))
    assert estimate.bytes_to_read == 2 * size, estimate.faults
    assert analysed(run, tmp_path / "a.zarr", of_last).computed == [0]


def test_a_pickle_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    for folder in run.iterdir():
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert analysed(run, tmp_path / "a.zarr").computed == [0, 1]
    size = (run / "step-0/pytorch_model.bin").stat().st_size
    estimate = dry_run(analysis_of(run, tmp_path / "a.zarr"))
    assert (estimate.bytes_to_read, estimate.bytes_skipped) == (2 * size, 0)


def test_experts_that_must_be_merged_are_read_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mixtral", hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=101,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        max_position_embeddings=32,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "run/step-0")
    with safe_open(tmp_path / "run/step-0/model.safetensors", "pt") as file:
        assert any("experts.0." in name for name in list(file.keys())), "separate, as on the Hub"
    assert analysed(tmp_path / "run", tmp_path / "a.zarr").computed == [0]
    assert dry_run(analysis_of(tmp_path / "run", tmp_path / "a.zarr")).bytes_skipped == 0


def test_a_number_that_is_not_finite_is_found_where_it_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=(0, 1, 2))
    for step, name in ((0, "mlp.up_proj"), (1, "self_attn.v_proj")):
        file = run / f"step-{step}/model.safetensors"
        state = load_file(file)
        state[f"model.layers.0.{name}.weight"][3, 2] = float("nan")
        save_file(state, file, {"format": "pt"})
    summary = analysed(run, tmp_path / "a.zarr")
    assert summary.computed == [0, 2]
    assert "model.layers.0.self_attn.v_proj.weight (1 of" in summary.masked[1]
    # With the audit off, the step is computed and named.
    summary = analysed(run, tmp_path / "b.zarr", audit="off")
    assert summary.computed == [0, 1, 2]
    assert list(summary.not_finite) == [1] and "v_proj" in summary.not_finite[1]


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "shape", "name", "pointer", "dtype"])
def test_a_damaged_file_ends_its_own_checkpoint(damage: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=(0, 1, 2))
    file = run / "step-1/model.safetensors"
    content, state = file.read_bytes(), load_file(file)
    expected = "is truncated or no weight file"
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "longer":
        file.write_bytes(content + b"\0")
    elif damage == "header":
        file.write_bytes(b"\0" * 5 + content[5:])
    elif damage == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
        expected = "git-lfs pointer"
    elif damage == "shape":  # of a tensor that is not read
        state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 64)
        save_file(state, file)
        expected = r"of another shape: model.layers.0.mlp.up_proj.weight: \[3, 64\]"
    elif damage == "name":
        state["another"] = state.pop("model.layers.1.mlp.up_proj.weight")
        save_file(state, file)
        expected = "missing: model.layers.1.mlp.up_proj.weight; unexpected: another"
    else:
        state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(512, 64, dtype=torch.int8)
        save_file(state, file)
        expected = "holds int8 for a floating-point parameter"
    summary = analysed(run, tmp_path / "a.zarr", audit="off")
    assert summary.computed == [0, 2]
    assert re.search(expected, summary.failed[1]) and "step-1" in summary.failed[1]


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", steps=(0, 1))
    other = write_run(tmp_path / "other", steps=(5,))
    file, read = run / "step-0/model.safetensors", tensor_ranges.read_spans
    changed: list[Path] = []

    def read_and_replace(*arguments: object) -> dict[str, bytearray]:
        found = read(*arguments)  # type: ignore[arg-type]
        if not changed:
            shutil.copy(other / "step-5/model.safetensors", file)
            changed.append(file)
        return found

    monkeypatch.setattr("pipeline.models.some_weights.read_spans", read_and_replace)
    assert analysed(run, tmp_path / "a.zarr").computed == [0, 1]
    assert changed
    monkeypatch.undo()
    analysed(run, tmp_path / "b.zarr")
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert digests(tmp_path / "a.zarr") == digests(tmp_path / "b.zarr")


def test_an_object_that_is_replaced_between_two_ranges_is_read_again(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = (
        large_run(tmp_path / "run"),
        write_run(
            tmp_path / "other",
            "llama",
            (5,),
            hidden_size=256,
            intermediate_size=2048,
            vocab_size=2000,
        ),
    )
    uri = upload(run)
    filesystem = S3FileSystem(use_listings_cache=False)
    asked, read = [], s3_module.read_range

    def read_then_replace(*arguments: object) -> bytes:
        found = read(*arguments)  # type: ignore[arg-type]
        asked.append(arguments)
        if len(asked) == 2:  # after the header and one range of the first checkpoint that is read
            name = str(arguments[0]).removeprefix("s3://")
            filesystem.put(str(other / "step-5/model.safetensors"), f"{name}/model.safetensors")
        return found

    monkeypatch.setattr(s3_module, "read_range", read_then_replace)
    monkeypatch.setattr(tensor_ranges, "_STREAMS", 1)
    monkeypatch.setattr(tensor_ranges, "_PIECE", 2**18)
    assert analysed(uri, tmp_path / "a.zarr").computed == [0, 1]
    monkeypatch.undo()
    replaced = str(asked[1][0])
    shutil.copy(other / "step-5/model.safetensors", run / replaced.rpartition("/")[2])
    analysed(run, tmp_path / "b.zarr")
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert digests(tmp_path / "a.zarr") == digests(tmp_path / "b.zarr"), "of content, not of place"


@pytest.mark.parametrize("kinds", [(500, 503), ("cut",), ("reset",)])
def test_interrupted_ranges_are_asked_for_again(
    kinds: tuple, s3: Proxy, fast_retries: None, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    uri = upload(run)
    s3.faults = Faults(share=0.2, seed=3, kinds=kinds)
    assert analysed(uri, tmp_path / "a.zarr").computed == [0, 1]
    assert s3.faults.done
    s3.faults = Faults()
    analysed(run, tmp_path / "b.zarr")
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")


OWN = """
from pipeline import Measure, Variable

class Gate(Measure):
    "The largest weight of a matrix."
    name = "gate"
    version = 1
    default_input = None
    variables = (Variable("largest", ("step",), "1", "Of an MLP's weights.", ""),)

    def compute(self, context):
        return {"largest": context.weights["model.layers.0.mlp.gate_proj.weight"].max().numpy()}

class TooFew(Gate):
    "The same, declared wrongly."
    name = "too_few"

    def weights_read(self, setting):
        return ["model.norm.weight"]

class SinceLast(Gate):
    "The largest weight beside that of the last checkpoint."
    name = "since_last"
    reference_from = "last"

    def reference(self, context):
        return {"largest": float(super().compute(context)["largest"])}

    def compute(self, context):
        return {"largest": super().compute(context)["largest"] - context.reference["largest"]}

class Unknown(Gate):
    "The same, declared wrongly."
    name = "unknown"

    def weights_read(self, setting):
        return ["model.norm.wait"]
"""


def test_a_measure_of_ones_own_reads_all_unless_it_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "own.py").write_text(OWN)
    own = tmp_path / "own.py"
    assert analysed(run, tmp_path / "a.zarr", {f"{own}:Gate": {}}).computed == [0, 1]
    expected = load_file(run / "step-1/model.safetensors")["model.layers.0.mlp.gate_proj.weight"]
    assert values(tmp_path / "a.zarr")["gate/largest"][1] == expected.max().item()
    failed = analysed(run, tmp_path / "b.zarr", {f"{own}:TooFew": {}}).failed
    assert "reads weights that its weights_read() does not return" in failed[0]
    with pytest.raises(InputError, match=r"returns 'model\.norm\.wait', expected"):
        analysed(run, tmp_path / "c.zarr", {f"{own}:Unknown": {}})


def test_a_run_that_was_moved_goes_on(tmp_path: Path) -> None:
    run, store = write_run(tmp_path / "run"), tmp_path / "a.zarr"
    analysed(run, store)
    moved = Path(shutil.move(run, tmp_path / "moved"))
    summary = analysed(moved, store)
    assert (summary.computed, summary.failed) == ([], {})
    # The digest of the whole, which is known from now on, is not that of the rows.
    analysed(moved, tmp_path / "b.zarr", {"weight_norm": {}})
    again = Path(shutil.copytree(moved, tmp_path / "again"))
    analysed(again, tmp_path / "c.zarr", {"weight_norm": {}})
    assert analysed(again, store).failed == {}
    other = write_run(tmp_path / "other", steps=(5, 6))
    for step in (5, 6):
        (other / f"step-{step}").rename(other / f"step-{step - 5}")
    analysed(other, tmp_path / "d.zarr", {"weight_norm": {}})
    with pytest.raises(InputError, match="choose another store"):
        analysed(other, store)


def test_a_part_that_a_model_lacks_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "gpt2")
    assert analysed(run, tmp_path / "a.zarr", {"weight_norm": {"of": "embeddings"}}).computed
    names = open_run(str(tmp_path / "a.zarr"))["weight_norm"]["parameter"].values.tolist()
    assert names == ["transformer.wte.weight", "transformer.wpe.weight"]
    config = AutoConfig.for_model(
        "mamba", hidden_size=32, num_hidden_layers=1, vocab_size=101, state_size=4
    )
    setting = Setting(facts_without_heads(config))
    with pytest.raises(InputError, match="has no weights of a submodule named attention or attn"):
        registry()["weight_norm"](of="attention").check(setting)  # type: ignore[call-arg]


def facts_without_heads(config: PreTrainedConfig) -> ModelFacts:
    module = without_memory(config)
    names = tuple(name for name, _ in module.named_parameters())
    return ModelFacts(1, 1, 1, 1, 32, 101, None, names, type(module).__name__)
