"""Every fault of a request: told by all commands alike, at once, before anything starts."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from flows.cli import app
from pipeline.config import Analysis
from pipeline.inputs import text
from pipeline.store import Store
from pipeline.store.lease import owned
from pipeline.store.sealed import seal
from pipeline.store.versions import key_of
from tests.flows.test_cli import errors_in

CORPUS = text.standard_library(200_000)
TABLE = {"kind": "table", "p": 31, "operation": "add", "train_share": 0.4, "split_seed": 0}


@pytest.fixture(scope="module")
def made(organisms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what the inputs of the cases name: texts, arrays, a tokenizer, runs."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "long.txt").write_text(CORPUS[0].read_text() * 20)
    (folder / "short.txt").write_text("a few words")
    tokenizer = text.train_tokenizer([one.read_text() for one in CORPUS], 400)
    tokenizer.save_pretrained(folder / "tokenizer")
    np.save(folder / "large.npy", np.full((64, 32), 99))
    np.save(folder / "floats.npy", np.ones((64, 32)))
    np.save(folder / "ids.npy", np.load(organisms / "ids.npy"))
    (folder / "foreign").mkdir()
    (folder / "foreign/notes.txt").write_text("not a store")
    remote = folder / "remote/step-1"
    remote.mkdir(parents=True)
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (remote / "config.json").write_text(json.dumps(config))
    save_file(load_file(organisms / "run/step-1/model.safetensors"), remote / "model.safetensors")
    return folder


def _text(**changes: Any) -> dict[str, Any]:
    given = {"kind": "text", "path": "MADE/long.txt", "tokenizer": "MADE/tokenizer", "length": 32}
    return {"inputs": {"text": given | changes}, "measures": {"repeat_loss.text": {}}}


def _read(path: str) -> dict[str, Any]:
    inputs = {"text": {"kind": "array", "path": path, "length": 32}}
    return {"inputs": inputs, "measures": {"residual_norm.text": {}}}


def _repeated(**given: Any) -> dict[str, Any]:
    inputs = {"repeated": {"kind": "repeated", "block_length": 10} | given}
    return {"inputs": inputs, "measures": {"head_scores": {}}}


# What differs from a sound analysis, and what the sentence about it must say.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no GPU": ({"workers": {"device": "cuda"}}, ["device: cuda", "no CUDA device", "device: cpu"]),
    "no checkpoints": ({"checkpoints": "MADE/nowhere"}, ["nowhere", "no such folder"]),
    "code of the checkpoints": (
        {"checkpoints": "MADE/remote", "inputs": {}}, ["trust_remote_code: true"],
    ),
    "a step that is not there": ({"select": {"steps": [3]}}, ["no checkpoint of step 3"]),
    "a step that a group asks for": (
        {"measures": {"weight_norm": {"select": {"steps": [3]}}}}, ["no checkpoint of step 3"],
    ),
    "longer than the context": (_repeated(block_length=20), ["40 tokens", "context is 32"]),
    "too many tokens": (_repeated(sequences=10**9), ["'repeated'", "20,000,000,000 tokens"]),
    "beyond the vocabulary": (_read("MADE/large.npy"), ["token id 99", "32 ids"]),
    "no integers": (_read("MADE/floats.npy"), ["floats.npy", "float64", "integer"]),
    "no array": (_read("MADE/absent.npy"), ["absent.npy", "No such file"]),
    "no text": (_text(path="MADE/absent.txt"), ["absent.txt", "No such file"]),
    "a short text": (_text(path="MADE/short.txt"), ["short.txt", "expected at least 64 x 32"]),
    "no tokenizer": (_text(tokenizer="MADE/foreign"), ["foreign", "tokenizer.json"]),
    "a larger tokenizer": (_text(), ["has 400 ids, the model 32 rows"]),
    "no such input": ({"measures": {"repeat_loss.txt": {}}}, ["'txt'", "does not define"]),
    "another kind of input": (
        {"measures": {"modular_addition.repeated": {}}}, ["kind 'table'", "'repeated'"],
    ),
    "no such measure": ({"measures": {"head_score": {}}}, ["did you mean 'head_scores'?"]),
    "no such parameter": ({"measures": {"weight_norm": {"x": 1}}}, ["unknown key 'x'"]),
    "no such head": (
        {"measures": {"head_ablation.repeated": {"heads": [[0, 9]]}}}, ["no head [0, 9]"],
    ),
    "no such token": (
        {**_read("MADE/ids.npy"), "measures": {"token_loss": {"late_token": 400}}},
        ["late_token", "32 tokens"],
    ),
    "no such variable": (
        {"measures": {"head_scores": {"float16": ["inductoin"]}}}, ["inductoin", "float16"],
    ),
    "a store in a file": ({"store": "MADE/short.txt"}, ["short.txt", "is a file"]),
    "a store among other files": ({"store": "MADE/foreign"}, ["'notes.txt'", "another store"]),
    "a place that cannot be written": ({"store": "/proc/a/store.zarr"}, ["/proc: "]),
    "a store elsewhere": ({"store": "gs://bucket/store"}, ["gs://"]),
}  # fmt: skip


@pytest.fixture
def config_of(
    made: Path, make_analysis: Callable[..., Analysis], tmp_path: Path
) -> Callable[[dict[str, Any]], Path]:
    """Return a function that writes a sound analysis with some changes; MADE is the folder."""

    def write(changes: dict[str, Any]) -> Path:
        measures = {"head_scores": {}, "weight_norm": {}}
        content = make_analysis(measures=measures).model_dump(mode="json") | changes
        config = tmp_path / "analysis.yaml"
        config.write_text(json.dumps(content).replace("MADE", str(made)))
        return config

    return write


def ontogeny(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told_alike(config: Path) -> list[str]:
    """Return the faults of an analysis, after comparing what the commands say and their codes."""
    serial = ontogeny("analyze", config, "--serial")
    assert serial.exit_code == 2, serial.output
    assert serial.stdout == ""
    told = errors_in(serial.stderr)
    for options in (["--serial"], []):
        dry = ontogeny("analyze", config, "--dry-run", *options)
        assert dry.exit_code == 2, dry.output
        assert dry.stderr.splitlines() == told
    as_json = ontogeny("analyze", config, "--dry-run", "--json")
    assert [fault["message"] for fault in json.loads(as_json.stdout)["faults"]] == told
    doctor = ontogeny("doctor", config, "--json")
    assert doctor.exit_code == 2, doctor.output
    checks = json.loads(doctor.stdout)
    assert [one["message"] for one in checks if one["of_request"] and not one["ok"]] == told
    assert any(one["ok"] for one in checks), "it goes on after a fault"
    return told


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_one_sentence_that_all_commands_tell(
    case: str, config_of: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    changes, says = CASES[case]
    config = config_of(changes)
    before = sorted(tmp_path.rglob("*"))
    (sentence,) = told_alike(config)
    for part in says:
        assert part in sentence
    assert sorted(tmp_path.rglob("*")) == before


@contextmanager
def _owned_by_another(store: Store) -> Iterator[None]:
    with owned(store):
        yield


@contextmanager
def _of_a_newer_layout(store: Store) -> Iterator[None]:
    number = store.versions.newest_number() + 1
    store.objects.create(key_of(number), seal({"layout": 99}))
    yield


@contextmanager
def _of_another_model(store: Store) -> Iterator[None]:
    store.versions.change(lambda version: replace(version, identity={"architecture": "another"}))
    yield


STORES = {
    "owned": (_owned_by_another, ["another analysis owns the store"]),
    "newer": (_of_a_newer_layout, ["layout 99"]),
    "another model": (_of_another_model, ["made by another analysis", "config.json"]),
}


@pytest.mark.parametrize("case", STORES)
def test_a_store_that_cannot_be_used_is_told(
    case: str, config_of: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    changed, says = STORES[case]
    config = config_of({"measures": {"weight_norm": {}}, "select": {"steps": [0]}})
    assert ontogeny("analyze", config, "--serial").exit_code == 0
    with changed(Store(str(tmp_path / "store.zarr"))):
        (sentence,) = told_alike(config)
    for part in says:
        assert part in sentence


MANY = {
    "inputs": _repeated()["inputs"] | _read("MADE/large.npy")["inputs"],
    "store": "MADE/foreign",
    "workers": {"device": "cuda"},
    "measures": {
        "weight_norm": {"x": 1},
        "head_score": {},
        "residual_norm.text": {},
        "head_ablation.repeated": {"heads": [[0, 9]]},
        "head_scores.repeated": {"select": {"steps": [3]}},
    },
}


def test_many_faults_are_told_at_once_and_nothing_is_started(
    config_of: Callable[[dict[str, Any]], Path],
) -> None:
    ray.shutdown()  # an earlier test of this process may have started it
    config = config_of(MANY)
    told = told_alike(config)
    for part in ("'x'", "head_score", "token id 99", "[0, 9]", "step 3", "notes.txt", "CUDA"):
        assert sum(part in sentence for sentence in told) == 1, part
    assert len(told) == 7
    # No server listens at PREFECT_API_URL: a run that were started would say so, and nothing else.
    started = time.monotonic()
    flow = ontogeny("analyze", config)
    assert (flow.exit_code, errors_in(flow.stderr)) == (2, told)
    assert not ray.is_initialized()
    assert time.monotonic() - started < 120


def test_faults_that_only_workers_of_ray_would_meet(
    config_of: Callable[[dict[str, Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of({"workers": {"cpus": 1.5}})
    flow, dry = ontogeny("analyze", config), ontogeny("analyze", config, "--dry-run")
    assert flow.exit_code == dry.exit_code == 2
    assert "workers.cpus: a worker asks for 1.5" in flow.stderr
    assert errors_in(flow.stderr) == errors_in(dry.stderr)
    assert ontogeny("analyze", config, "--dry-run", "--serial").exit_code == 0
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    flow = ontogeny("analyze", config_of({"workers": {"device": "cuda"}}))
    assert flow.exit_code == 2
    # Only one: the devices of a cluster are not those of this machine.
    (sentence,) = errors_in(flow.stderr)
    assert sentence.startswith("127.0.0.1:1: ") and "start_head.sh" in sentence


def test_a_faulty_config_is_a_failed_check_and_the_others_are_made(tmp_path: Path) -> None:
    config = tmp_path / "analysis.yaml"
    config.write_text("checkpoint: here\n")
    doctor = ontogeny("doctor", config, "--json")
    assert doctor.exit_code == 2
    checks = json.loads(doctor.stdout)
    assert "did you mean 'checkpoints'?" in str([one for one in checks if one["name"] == "config"])
    assert {"environment", "Ray", "ports"} <= {one["name"] for one in checks}


@pytest.mark.parametrize("audit", ["metadata", "off"])
def test_steps_that_cannot_be_computed_are_those_of_the_run(
    audit: str, config_of: Callable[[dict[str, Any]], Path], organisms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(organisms / "run", run)
    for step, change in {
        1: lambda weights: {k: v.astype(np.int8) for k, v in weights.items()},
        2: lambda weights: {k: v[:-1] for k, v in weights.items()},
    }.items():
        file = run / f"step-{step}/model.safetensors"
        save_file(change(load_file(file)), file)
    file = run / "step-4/model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    config = config_of({"checkpoints": str(run), "audit": audit})
    dry = ontogeny("analyze", config, "--dry-run", "--json")
    serial = ontogeny("analyze", config, "--serial", "--json")
    assert dry.exit_code == serial.exit_code == 1
    failed = json.loads(dry.stdout)["failed"]
    assert list(failed) == ["1", "2", "4"] == list(json.loads(serial.stdout)["failed"])
    assert "int" in failed["1"].lower() and "of another shape" in failed["2"]
    doctor = ontogeny("doctor", config)
    assert doctor.exit_code == 1
    assert "3 of 10 cannot be computed" in doctor.stdout
