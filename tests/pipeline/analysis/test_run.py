"""The main path: missing rows, and only those, are computed, and correctly."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM

import pipeline.analysis.contexts
import pipeline.analysis.reading
import pipeline.analysis.worker
from pipeline import Analysis, InputError, analyze, open_run
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.inputs import Input
from pipeline.measures.weight_norm import WeightNorm
from pipeline.query import select

MEASURES = {
    "token_loss": {"early_token": 4, "late_token": 20},
    "head_scores": {},
    "weight_norm": {},
}


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    return make_run(steps=(0, 1, 2, 10))


def analysis(run: Path, **changes: Any) -> Analysis:
    ids = run.parent / "ids.npy"
    if not ids.exists():
        np.save(ids, np.random.default_rng(0).integers(0, 40, (6, 24)))
    content: dict[str, Any] = {
        "checkpoints": str(run),
        "store": str(run.parent / "store.zarr"),
        "inputs": {
            "text": {"kind": "array", "path": str(ids), "sequences": 6, "length": 24},
            "repeated": {"kind": "repeated", "block_length": 7, "sequences": 5},
        },
        "measures": MEASURES,
    }
    return Analysis.model_validate(content | changes)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the inputs of forward passes, one entry per pass."""
    seen: list[str] = []
    real = pipeline.analysis.contexts.run

    def counted(resident: Any, made: Any, wanted: Any, *options: Any) -> Any:
        seen.append(made.name)
        return real(resident, made, wanted, *options)

    monkeypatch.setattr(pipeline.analysis.contexts, "run", counted)
    yield seen


def test_stored_numbers_are_those_of_the_models_own_forward(run: Path) -> None:
    analyze(analysis(run))
    tree = open_run(str(run.parent / "store.zarr"))
    tokens = torch.from_numpy(np.load(run.parent / "ids.npy"))
    for step in (0, 1, 2, 10):
        model = AutoModelForCausalLM.from_pretrained(run / f"step-{step}").double()
        with torch.no_grad():
            log_p = model(tokens).logits.log_softmax(-1)
        expected = -log_p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].numpy()
        group = tree["token_loss"].sel(step=step)
        np.testing.assert_allclose(group.loss, expected, atol=2e-6)
        np.testing.assert_allclose(group["mean"], expected.mean(), atol=1e-6)
        score = (expected[:, 19] - expected[:, 3]).mean()
        np.testing.assert_allclose(group.in_context_score, score, atol=1e-6)
        squares = sum(float((w.detach() ** 2).sum()) for w in model.parameters())
        np.testing.assert_allclose(tree["weight_norm"].sum_of_squares.sel(step=step), squares)


def test_losses_are_stored_as_float16_where_asked(run: Path) -> None:
    analyze(analysis(run))
    halved = {**MEASURES["token_loss"], "float16": ["loss"]}
    half = str(run.parent / "half.zarr")
    analyze(analysis(run, store=half, measures={"token_loss": halved}))
    exact = open_run(str(run.parent / "store.zarr"))["token_loss"]
    rounded = open_run(half)["token_loss"]
    assert rounded.loss.attrs["stored_as"].startswith("float16")
    error = np.abs(rounded.loss.values - exact.loss.values)
    assert 0 < error.max() <= 0.002
    assert (rounded["mean"].values == exact["mean"].values).all()


def test_what_is_no_float32_variable_cannot_be_float16(run: Path) -> None:
    for name in ("mean", "los"):
        measures = {"token_loss": {**MEASURES["token_loss"], "float16": [name]}}
        with pytest.raises(InputError, match=f"{name}.*float32 variables can: loss"):
            analyze(analysis(run, measures=measures))
    assert not (run.parent / "store.zarr").exists()


def test_scores_are_those_of_the_eager_matrices(run: Path) -> None:
    analyze(analysis(run))
    scores = open_run(str(run.parent / "store.zarr"))["head_scores"].sel(step=10)
    made = _repeated(run)
    tokens, lengths = torch.from_numpy(made.tokens), made.arrays["block_length"]
    model = AutoModelForCausalLM.from_pretrained(run / "step-10", attn_implementation="eager")
    with torch.no_grad():
        attentions = model.double()(tokens, output_attentions=True).attentions
    for layer, p in enumerate(attentions):
        later = [torch.arange(n, 2 * n) for n in lengths]
        induction = [of[:, i, i - n + 1] for of, i, n in zip(p, later, lengths, strict=True)]
        mean = torch.cat(induction, dim=1).mean(dim=1)
        np.testing.assert_allclose(scores.induction[layer], mean, atol=1e-6)
        first = [torch.arange(1, n) for n in lengths]
        previous = [of[:, i, i - 1] for of, i in zip(p, first, strict=True)]
        mean = torch.cat(previous, dim=1).mean(dim=1)
        np.testing.assert_allclose(scores.previous_token[layer], mean, atol=1e-6)


def _repeated(run: Path) -> Input:
    made = prepare(analysis(run), survey(analysis(run))).settings["head_scores"].input
    assert made is not None
    return made


def test_the_next_checkpoint_is_read_while_one_computes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, norms = pipeline.analysis.reading.read_weights, WeightNorm.compute
    begun = [threading.Event() for _ in range(5)]
    reads, computes, overlapped = iter(begun), iter(begun[1:]), []

    def reading(*of: Any) -> Any:
        next(reads).set()
        return read(*of)

    def computing(self: WeightNorm, *given: Any) -> Any:
        overlapped.append(next(computes).wait(timeout=120 if len(overlapped) < 3 else 0))
        return norms(self, *given)

    monkeypatch.setattr(pipeline.analysis.reading, "read_weights", reading)
    monkeypatch.setattr(WeightNorm, "compute", computing)
    analyze(analysis(run, measures=["weight_norm"]))
    assert overlapped == [True, True, True, False]


def test_waiting_for_weights_is_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = pipeline.analysis.reading.read_weights
    monkeypatch.setattr(
        pipeline.analysis.reading, "read_weights", lambda *of: (time.sleep(0.2), read(*of))[1]
    )
    started = time.perf_counter()
    summary = analyze(analysis(run, measures=["weight_norm"]))
    assert summary.idle >= 0.2  # nothing hides the first of the four
    assert 0.8 <= summary.idle + summary.computing <= time.perf_counter() - started
    assert f"{summary.idle_share:.0%} idle" in summary.loading()


def test_a_second_run_computes_nothing_and_takes_no_forward_pass(
    run: Path, forwards: list[str]
) -> None:
    assert analyze(analysis(run)).computed == [0, 1, 2, 10]
    assert len(forwards) == 8  # two inputs at four checkpoints
    again = analyze(analysis(run))
    assert again.computed == []
    assert again.complete == 4
    assert len(forwards) == 8


def test_measures_on_one_input_share_its_pass(run: Path, forwards: list[str]) -> None:
    measures = {"token_loss.repeated": {"early_token": 2, "late_token": 9}, "head_scores": {}}
    analyze(analysis(run, measures=measures))
    assert forwards == ["repeated"] * 4


def test_a_later_checkpoint_computes_its_own_cells_only(
    run: Path, make_run: Callable[..., Path], forwards: list[str]
) -> None:
    analyze(analysis(run))
    del forwards[:]
    make_run(steps=(20,))
    assert analyze(analysis(run)).computed == [20]
    assert len(forwards) == 2
    assert open_run(str(run.parent / "store.zarr"))["token_loss"].step.values.tolist() == [
        0, 1, 2, 10, 20,
    ]  # fmt: skip


def test_a_changed_weight_file_recomputes_its_own_cells_only(run: Path) -> None:
    analyze(analysis(run, audit="off"))
    before = open_run(str(run.parent / "store.zarr")).load()
    shutil.copy(run / "step-2" / "model.safetensors", run / "step-1" / "model.safetensors")
    assert analyze(analysis(run, audit="off")).computed == [1]
    after = open_run(str(run.parent / "store.zarr")).load()
    for name in MEASURES:
        new, old = after[name].to_dataset(), before[name].to_dataset()
        same = {"step": [0, 2, 10]}
        xr.testing.assert_identical(new.sel(same), old.sel(same))
        for variable in new.data_vars:
            np.testing.assert_array_equal(new[variable].sel(step=1), old[variable].sel(step=2))


def test_weights_that_change_back_are_shown_again(run: Path) -> None:
    analyze(analysis(run, audit="off"))
    before = open_run(str(run.parent / "store.zarr")).load()
    original = (run / "step-1" / "model.safetensors").read_bytes()
    shutil.copy(run / "step-2" / "model.safetensors", run / "step-1" / "model.safetensors")
    analyze(analysis(run, audit="off"))
    (run / "step-1" / "model.safetensors").write_bytes(original)
    analyze(analysis(run, audit="off"))
    assert open_run(str(run.parent / "store.zarr")).load().identical(before)


def test_a_changed_input_recomputes_the_measures_that_read_it(
    run: Path, forwards: list[str]
) -> None:
    analyze(analysis(run))
    del forwards[:]
    inputs = {**analysis(run).model_dump()["inputs"]}
    inputs["text"]["sequences"] = 3
    summary = analyze(analysis(run, inputs=inputs))
    assert summary.computed == [0, 1, 2, 10]
    assert forwards == ["text"] * 4
    tree = open_run(str(run.parent / "store.zarr"))
    assert tree["token_loss"].sizes["sequence"] == 3
    assert tree["head_scores"].sizes["step"] == 4


def test_a_changed_measure_version_recomputes_that_measure(
    run: Path, monkeypatch: pytest.MonkeyPatch, forwards: list[str]
) -> None:
    analyze(analysis(run))
    del forwards[:]
    monkeypatch.setattr(WeightNorm, "version", 2)
    assert analyze(analysis(run)).computed == [0, 1, 2, 10]
    assert forwards == []


def test_a_truncated_checkpoint_is_named_and_the_others_are_computed(run: Path) -> None:
    file = run / "step-2" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    summary = analyze(analysis(run))
    assert summary.computed == [0, 1, 10]
    assert list(summary.failed) == [2]
    assert str(file) in summary.failed[2]
    assert summary.sentence() == "1/4 checkpoints failed: [2]"
    assert open_run(str(run.parent / "store.zarr"))["token_loss"].step.values.tolist() == [0, 1, 10]


def test_a_measure_is_added_by_one_new_file(run: Path, tmp_path: Path) -> None:
    """A file that appears in the folder is computed, stored and queried: no other edit.

    In a copy of the code: other tests read the folder at the same time.
    """
    code = tmp_path / "code"
    installed = Path(pipeline.__path__[0])
    shutil.copytree(installed, code / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "pipeline" / "measures" / "largest_weight.py").write_text(
        '''
"""A throw-away measure."""
import numpy as np
from pipeline.measures.base import Measure
from pipeline.schema import Variable

class LargestWeight(Measure):
    """The largest weight in absolute value."""
    name = "largest_weight"
    version = 1
    default_input = None
    variables = (Variable("largest", ("step",), "1", "Largest absolute weight."),)

    def compute(self, context):
        return {"largest": np.array(max(float(w.abs().max()) for w in context.weights.values()))}
'''
    )
    file = tmp_path / "analysis.json"
    file.write_text(analysis(run, measures=["largest_weight"]).model_dump_json())
    program = (
        "import sys; from pathlib import Path; from pipeline import Analysis, analyze; "
        "analyze(Analysis.model_validate_json(Path(sys.argv[1]).read_text()))"
    )
    subprocess.run([sys.executable, "-c", program, file], cwd=code, check=True)
    found = open_run(str(run.parent / "store.zarr"))["largest_weight"].largest
    model = AutoModelForCausalLM.from_pretrained(run / "step-10")
    with torch.no_grad():
        expected = max(float(w.abs().max()) for w in model.parameters())
    assert found.sel(step=10).item() == pytest.approx(expected)
    assert found.attrs["definition"] == "Largest absolute weight."


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"measures": ["head_score"]}, ["'head_score'", "did you mean 'head_scores'?"]),
        ({"measures": {"weight_norm.text": {}}}, ["weight_norm.text", "reads weights only"]),
        ({"measures": ["token_loss.prose"]}, ["'prose'", "`inputs` does not define"]),
        (
            {"measures": {"token_loss": {"late_tokens": 1}}},
            ["'late_tokens'", "did you mean 'late_token'?"],
        ),
        ({"measures": ["token_loss"]}, ["50 and 500", "24 tokens", "late_token"]),
        ({"measures": ["head_scores.text"]}, ["'repeated'", "'text'"]),
        ({"checkpoints": "/nowhere/run"}, ["/nowhere/run", "no such folder"]),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_is_written(
    run: Path, changes: dict[str, Any], says: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        analyze(analysis(run, **changes))
    assert "\n" not in str(caught.value)
    for part in says:
        assert part in str(caught.value)
    assert not (run.parent / "store.zarr").exists()


def test_another_architecture_half_way_ends_its_own_step(
    run: Path, make_run: Callable[..., Path]
) -> None:
    make_run(steps=(5,), hidden_size=8)
    summary = analyze(analysis(run))
    assert summary.computed == [0, 1, 2, 10] and list(summary.failed) == [5]
    assert "step-5/config.json has hidden_size = 8, expected 16" in summary.failed[5]


def test_a_store_of_another_run_is_refused_and_kept(
    run: Path, make_run: Callable[..., Path]
) -> None:
    analyze(analysis(run))
    before = open_run(str(run.parent / "store.zarr")).load()
    other = make_run(steps=(7, 8), name="other")
    for step in (0, 1):  # of the same architecture, and other weights
        (other / f"step-{step + 7}").rename(other / f"step-{step}")
    with pytest.raises(InputError, match=r"weights at step 0 are \w+, and those at"):
        analyze(analysis(run, checkpoints=str(other)))
    assert open_run(str(run.parent / "store.zarr")).load().identical(before)


def test_a_measure_may_be_computed_at_some_checkpoints_only(run: Path, forwards: list[str]) -> None:
    some = {**MEASURES, "head_scores": {"select": {"steps": [0, 10]}}}
    summary = analyze(analysis(run, measures=some))
    assert summary.computed == [0, 1, 2, 10]
    assert sorted(forwards) == ["repeated"] * 2 + ["text"] * 4
    tree = open_run(str(run.parent / "store.zarr"))
    assert tree["head_scores"].step.values.tolist() == [0, 10]
    assert tree["token_loss"].step.values.tolist() == [0, 1, 2, 10]
    assert analyze(analysis(run, measures=some)).complete == 4

    assert analyze(analysis(run)).computed == [1, 2]  # what was computed stays
    assert len(forwards) == 6 + 2
    unknown = {"head_scores": {"select": {"steps": [3]}}}
    with pytest.raises(InputError, match="no checkpoint of step 3"):
        analyze(analysis(run, measures=unknown))


def test_a_row_is_of_the_bytes_that_were_read(
    run: Path, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is rewritten between listing and reading; later the old one comes back, as it was."""
    file, store = run / "step-1/model.safetensors", str(run.parent / "store.zarr")
    other = make_run(steps=(99,), name="other") / "step-99/model.safetensors"
    old, status = file.read_bytes(), file.stat()
    analyze(analysis(run, measures={"head_scores": {}}))  # digests are remembered from here on

    compute = pipeline.analysis.worker.Worker.compute

    def rewritten(worker: Any, cell: Any, planned: Any) -> Any:
        if cell.checkpoint.step == 1:
            shutil.copy(other, file)
        return compute(worker, cell, planned)

    monkeypatch.setattr(pipeline.analysis.worker.Worker, "compute", rewritten)
    both = {"head_scores": {}, "weight_norm": {}}
    assert analyze(analysis(run, measures=both)).computed == [0, 1, 2, 10]
    row = open_run(store)["weight_norm"].sel(step=1)
    assert str(row.digest.values) == hashlib.sha256(other.read_bytes()).hexdigest()
    np.testing.assert_allclose(row.sum_of_squares, _squares(other.parent))

    monkeypatch.undo()
    file.write_bytes(old)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert analyze(analysis(run, measures=both)).computed == [1]
    row = open_run(store)["weight_norm"].sel(step=1)
    assert str(row.digest.values) == hashlib.sha256(old).hexdigest()
    np.testing.assert_allclose(row.sum_of_squares, _squares(file.parent))


def _squares(folder: Path) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    return sum(float((w.detach() ** 2).sum()) for w in model.parameters())


def test_a_checkpoint_that_vanishes_is_said_to_be_gone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = pipeline.analysis.worker.Worker.compute

    def vanished(worker: Any, cell: Any, planned: Any) -> Any:
        if cell.checkpoint.step == 1:
            shutil.rmtree(run / "step-1")
        return compute(worker, cell, planned)

    monkeypatch.setattr(pipeline.analysis.worker.Worker, "compute", vanished)
    summary = analyze(analysis(run, measures={"weight_norm": {}}))
    assert summary.computed == [0, 2, 10]
    assert "step-1: is gone since it was listed" in summary.failed[1]


def test_what_is_left_out_is_in_the_summary(run: Path) -> None:
    shutil.copytree(run / "step-1", run / "best-5")
    summary = analyze(analysis(run, measures={"weight_norm": {}}))
    assert [(one.name, one.kind) for one in summary.left_out] == [("best-5", "name not understood")]
    assert summary.sentence().endswith("; left out: 1 of other names")


def test_a_store_without_rows_says_so(run: Path) -> None:
    for folder in run.iterdir():
        (folder / "model.safetensors").write_bytes(folder.name.encode())
    assert len(analyze(analysis(run)).failed) == 4
    with pytest.raises(InputError, match="the store holds nothing yet"):
        select(open_run(str(run.parent / "store.zarr")), "token_loss/mean")


def test_an_input_is_no_parameter_of_a_measure(run: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key 'input'; .*select .*weight_norm.<input>"):
        analyze(analysis(run, measures={"weight_norm": {"input": "text"}}))


def test_a_changed_group_is_shown_as_before_until_its_analysis_ends(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(run.parent / "store.zarr")
    analyze(analysis(run, measures={"token_loss": {"early_token": 2, "late_token": 5}}))
    before = open_run(store).load()

    def interrupt(done: int, total: int, what: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    changed = analysis(run, measures={"token_loss": {"early_token": 3, "late_token": 5}})
    with pytest.raises(KeyboardInterrupt):
        analyze(changed, interrupt)
    assert open_run(store).load().identical(before)
    again = analyze(changed)
    assert again.complete + len(again.computed) == 4
    after = open_run(store)["token_loss"]
    assert after.attrs["parameters"]["early_token"] == 3
    assert after.step.values.tolist() == before["token_loss"].step.values.tolist()
