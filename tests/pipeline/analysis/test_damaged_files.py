"""A damaged file ends its own checkpoint: the audit names it, and the others are computed."""

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline import Analysis, InputError, analyze, audit, list_run
from pipeline.analysis.estimate import dry_run


def config(**changes: Any) -> Callable[[Path], None]:
    """Return a function that changes a checkpoint's config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def raw_config(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(text) and None


def header(**changes: Any) -> Callable[[Path], None]:
    """Return a function that changes what the header says of the first matrix."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        said = json.loads(content[8 : 8 + length])
        name = next(one for one in sorted(said) if one.endswith("proj.weight"))
        said[name] |= changes
        text = json.dumps(said).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return change


def in_place_of(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def sparse(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 100 * 10**9)


def sparse_as_stated(folder: Path) -> None:
    """Write a header that is sound, of a tensor of 100 GB."""
    path, shape = folder / "model.safetensors", [10**6, 25_000]
    said = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 100 * 10**9]}}
    text = json.dumps(said).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + 100 * 10**9)


def pickled(change: Callable[[dict[Any, Any]], Any]) -> Callable[[Path], None]:
    """Return a function that saves the weights with torch.save, changed."""

    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(change(dict(weights)), folder / "pytorch_model.bin")

    return write


FIRST = "model.embed_tokens.weight"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "integers for a float": (header(dtype="I32"), "holds int32 for a floating-point parameter"),
    "complex": (pickled(lambda w: w | {FIRST: w[FIRST].to(torch.complex64)}), "complex64"),
    "a negative shape": (header(shape=[-16, -16]), "no count"),
    "a shape beyond 2^63": (header(shape=[2**64, 2**64]), "no count"),
    "a transposed shape": (header(shape=[4, 64]), "of another shape"),
    "a longer file": (sparse, "expected at most"),
    "a tensor beyond memory": (sparse_as_stated, "expected at most"),
    "a pipe for weights": (in_place_of("model.safetensors", os.mkfifo), "holds no weights"),
    "a pipe for a config": (in_place_of("config.json", os.mkfifo), "is missing"),
    "keys that are integers": (pickled(lambda w: dict(enumerate(w.values()))),
                               "expected a dictionary of tensors by name"),
    "a sparse tensor": (pickled(lambda w: w | {FIRST: w[FIRST].to_sparse()}), "is sparse"),
    "a tensor without data": (pickled(lambda w: w | {FIRST: w[FIRST].to("meta")}), "no data"),
    "a list for a config": (raw_config("[]"), "holds no JSON object but a list"),
    "text for a size": (config(hidden_size="768"), "hidden_size"),
    "layers without end": (config(num_hidden_layers=10**9), "num_hidden_layers"),
    "a width without end": (config(hidden_size=10**12), "hidden_size"),
    "a number without end": (config(layer_norm_eps=float("inf")), "layer_norm_eps = inf"),
    "a key twice": (raw_config('{"model_type": "llama", "model_type": "llama"}'), "twice"),
    "deep nesting": (raw_config('{"a": ' + "[" * 100_000), "nested too deeply"),
    "digits without end": (raw_config('{"a": ' + "7" * 6000 + "}"), "6000 digits"),
}  # fmt: skip


def analysis(run: Path) -> Analysis:
    content = {"checkpoints": str(run), "store": str(run.parent / "a.zarr"),
               "measures": ["weight_norm"]}  # fmt: skip
    return Analysis.model_validate(content)


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_ends_its_own_checkpoint(make_run, what: str) -> None:
    damage, says = DAMAGE[what]
    run = make_run((0, 1, 2))
    damage(run / "step-1")
    started = time.process_time()
    assert [one.step for one in list_run(str(run)).checkpoints] == [0, 1, 2]
    for deep in (False, True):
        assert {fault.step for fault in audit(str(run), deep=deep).faults} <= {1}
    assert dry_run(analysis(run)).checkpoints in (2, 3)
    summary = analyze(analysis(run))
    assert summary.computed == [0, 2]
    assert list(summary.failed) == [1]
    assert says in summary.failed[1] and "step-1" in summary.failed[1]
    assert time.process_time() - started < 10


def test_the_model_is_built_from_a_config_that_can_be_read(make_run) -> None:
    """The first checkpoint's has a key that is not compared, but keeps it from being read."""
    run = make_run((0, 1, 2))
    config(quantization_config=7)(run / "step-0")
    summary = analyze(analysis(run))
    assert summary.computed == [1, 2]
    assert "quantization_config" in summary.failed[0]


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 10**9}, {"hidden_size": 10**12}, {"num_labels": 10**9},
     {"vocab_size": 10**15}, {"num_attention_heads": 0}, {"max_position_embeddings": 10**14}],
)  # fmt: skip
def test_configs_that_no_machine_can_build_are_one_sentence(make_run, changes: dict) -> None:
    run = make_run((0, 1))
    for folder in run.iterdir():
        config(**changes)(folder)
    started = time.process_time()
    with pytest.raises(InputError, match=r"config.json: |num_attention_heads"):
        analyze(analysis(run))
    assert time.process_time() - started < 10
