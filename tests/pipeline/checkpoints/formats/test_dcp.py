"""Checkpoints of torch.distributed.checkpoint: as FSDP, accelerate and OLMo-core write them."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from s3fs import S3FileSystem
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from transformers import AutoModelForCausalLM

from pipeline.auditing import audit
from pipeline.checkpoints.formats.dcp import weights
from pipeline.checkpoints.formats.dcp_metadata import read_metadata
from pipeline.errors import CheckpointError
from tests.pipeline.checkpoints.formats.models import (
    assert_same,
    failure_of,
    losses_by,
    losses_of,
    tiny,
    unpacked,
    weights_of,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one model in all layouts, from two processes under FSDP."""
    folder = tmp_path_factory.mktemp("written")
    script = Path(__file__).with_name("write_sharded.py")
    processes = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*processes, "--nproc_per_node=2", str(script), str(folder)],
        check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for run in ("app", "flat", "SHARDED_STATE_DICT", "FULL_STATE_DICT"):
        shutil.copy(folder / "whole" / "config.json", folder / run)
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Return `saved(content)`, which writes a run of one checkpoint, without processes."""

    def write(content: dict[str, Any], model: torch.nn.Module | None = None) -> Path:
        run = tmp_path / "run"
        (model or tiny()).config.save_pretrained(run)  # type: ignore[operator, union-attr]
        dcp.save(content, storage_writer=FileSystemWriter(run / "step-1"), no_dist=True)
        return run

    return write


@pytest.mark.parametrize("kind", ["app", "flat", "SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_the_model_of_two_processes_is_whole(kind: str, written: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(written / "whole")
    assert_same(weights_of(written / kind), whole.state_dict())
    assert not audit(str(written / kind), deep=True).faults


def test_losses_are_those_of_the_whole_model(written: Path, tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(written / "whole")
    losses = losses_of(written / "SHARDED_STATE_DICT", tmp_path / "store.zarr")
    np.testing.assert_allclose(losses[0], losses_by(whole), atol=1e-5)


def test_s3_gives_the_same(written: Path, s3: object) -> None:
    filesystem = S3FileSystem()
    filesystem.put(str(written / "SHARDED_STATE_DICT"), "runs/here", recursive=True)
    found = weights_of("s3://runs/here")
    assert_same(found, weights_of(written / "SHARDED_STATE_DICT"))


def test_a_checkpoint_of_olmo_core_has_its_own_losses(tmp_path: Path) -> None:
    run = unpacked(tmp_path) / "olmo_core"
    # Its Trainer saves settings of its own under this name, which are not those of transformers.
    (run / "step1" / "config.json").write_text('{"model": {"d_model": 16}}')
    losses = losses_of(run, tmp_path / "store.zarr")
    expected = json.loads((run / "losses.json").read_text())  # from OLMo-core's forward pass
    np.testing.assert_allclose(losses[0].flatten(), expected, atol=1e-5)


def test_torchtitans_names_become_those_of_transformers(saved: Callable[..., Path]) -> None:
    model = tiny()
    found = weights_of(saved(metas_names(model)))
    assert_same(found, model.state_dict())


def metas_names(model: Any) -> dict[str, torch.Tensor]:
    """Return a Llama's weights by Meta's names, for rotations of neighbouring numbers.

    Row 2 i + j of a head (j: 0 or 1) is row i + j d / 2 of transformers' head, of d rows.
    """
    heads, size = model.config.num_attention_heads, model.config.head_dim
    order = [h * size + i + j * size // 2 for h in range(heads) for i in range(size // 2)
             for j in (0, 1)]  # fmt: skip
    names = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
             "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
             "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
             "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm",
             "post_attention_layernorm": "ffn_norm", "embed_tokens": "tok_embeddings",
             "lm_head": "output"}  # fmt: skip
    found = {}
    for name, tensor in model.state_dict().items():
        new = name.removeprefix("model.")
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        found[new] = tensor[order] if ".wq." in new or ".wk." in new else tensor
    return found


def test_names_of_a_trainer_need_a_config_of_that_model(saved: Callable[..., Path]) -> None:
    run = saved(metas_names(tiny()), tiny("gpt_neox"))
    assert "expected llama" in failure_of(run)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {"a": torch.ones(2)}, "module": {"a": torch.ones(2)}}, "found model, module"),
        ({"optimizer": {"a": torch.ones(2)}}, "found none"),
    ],
)
def test_one_model_is_expected(
    content: dict[str, Any], says: str, saved: Callable[..., Path]
) -> None:
    assert says in failure_of(saved(content))


def test_a_model_without_a_config_says_so(saved: Callable[..., Path], tmp_path: Path) -> None:
    run = saved({"model": tiny().state_dict()})
    (run / "config.json").unlink()
    (fault,) = audit(str(run)).faults
    assert "does not say which model it is of" in fault.detail and "`config`" in fault.detail


class Hostile:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def hostile_pickles(trace: Path) -> dict[str, bytes]:
    """Return pickles that run code, or change a class or fill the memory of who reads them."""
    eval_ = f"c__builtin__\neval\n(V__import__('os').system('touch {trace}')\ntR.".encode()
    getattr_ = b"c__builtin__\ngetattr\n(cbuiltins\nopen\nV__call__\ntR."
    import_ = b"cbuiltins\n__import__\n(Vos\ntR."
    dotted = b"\x80\x04\x8c\x05torch\x8c\x0bload.__code__\x93."
    torch_load = f"ctorch\nload\n(V{trace}\ntR.".encode()
    class_ = (
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n"
        b"(N}X\x08\x00\x00\x00__init__K\x01s\x86b."
    )
    memo, put = b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x02Np2000000000\n."
    return {"reduce": pickle.dumps(Hostile(trace)), "eval": eval_, "getattr": getattr_,
            "import": import_, "dotted": dotted, "load": torch_load, "class": class_,
            "memo": memo, "put": put, "empty": b"", "text": b"{}",
            "cut": pickle.dumps({"a": [1] * 99})[:20],
            "deep": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b"."}  # fmt: skip


@pytest.mark.parametrize("kind", hostile_pickles(Path("trace")))
def test_no_metadata_runs_code(kind: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    from torch.distributed.checkpoint.metadata import Metadata

    trace, before = tmp_path / "trace", dict(vars(Metadata))
    run = saved({"model": tiny().state_dict()})
    (run / "step-1" / ".metadata").write_bytes(hostile_pickles(trace)[kind])
    assert ".metadata: " in failure_of(run)
    assert not trace.exists() and dict(vars(Metadata)) == before


def test_no_shard_runs_code(saved: Callable[..., Path], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    run = saved({"model": {"a.weight": torch.ones(2)}})
    (shard,) = (run / "step-1").glob("*.distcp")
    size = shard.stat().st_size
    torch.save(Hostile(trace), shard)
    content = shard.read_bytes()
    # What the metadata says of it stays true: a file of torch.save, and as long.
    shard.write_bytes(content + bytes(max(0, size - len(content))))
    failure_of(run)
    assert not trace.exists()


def changed(run: Path, change: Callable[[Any], None]) -> Path:
    """Change the metadata of a run's checkpoint."""
    file = run / "step-1" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    change(metadata)
    file.write_bytes(pickle.dumps(metadata))
    return run


def _lead_out(metadata: Any) -> None:
    for found in metadata.storage_data.values():
        found.relative_path = f"../step-1/{found.relative_path}"


def _inflate(metadata: Any) -> None:
    tensor = next(iter(metadata.state_dict_metadata.values()))
    tensor.size = torch.Size([10**9, 10**6])
    tensor.chunks[0].sizes = tensor.size


def _lose_a_chunk(metadata: Any) -> None:
    next(iter(metadata.state_dict_metadata.values())).chunks = []


def _compress(metadata: Any) -> None:
    for found in metadata.storage_data.values():
        found.transform_descriptors = ["stream.zstd"]


def _share_the_bytes(metadata: Any) -> None:
    first = next(iter(metadata.storage_data.values()))
    for found in metadata.storage_data.values():
        found.offset, found.length = first.offset, first.length
    name = next(iter(metadata.state_dict_metadata))
    key = next(iter(metadata.storage_data))
    for number in range(500):
        other = f"{name}{number}"
        metadata.state_dict_metadata[other] = metadata.state_dict_metadata[name]
        metadata.storage_data[type(key)(other, key.offset)] = first


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_lead_out, "which is not beside it"),
        (_inflate, "has a chunk of"),
        (_lose_a_chunk, "are not the whole of its shape"),
        (_compress, "its tensors are compressed"),
        (_share_the_bytes, "its tensors have"),
    ],
)
def test_metadata_that_contradicts_its_files_is_refused(
    change: Callable[[Any], None], says: str, saved: Callable[..., Path]
) -> None:
    run = saved({"model": {"a.weight": torch.ones(8, 8)}})
    assert says in failure_of(changed(run, change))


def test_a_shard_that_is_cut_off_is_named(saved: Callable[..., Path]) -> None:
    run = saved({"model": tiny().state_dict()})
    shard = max((run / "step-1").glob("*.distcp"))
    os.truncate(shard, shard.stat().st_size // 2)
    assert f"{shard.name}: has" in failure_of(run)


def test_a_missing_shard_is_named(saved: Callable[..., Path]) -> None:
    run = saved({"model": tiny().state_dict()})
    (run / "step-1" / "__9_0.distcp").write_bytes(b"PK")
    for shard in (run / "step-1").glob("__0_*.distcp"):
        shard.unlink()
    assert "names the file '__0_0.distcp', which is not beside it" in failure_of(run)


def test_metadata_is_that_of_torch(saved: Callable[..., Path]) -> None:
    run = saved({"model": tiny().state_dict(), "step": torch.tensor(3), "name": "x"})
    file = run / "step-1" / ".metadata"
    sizes = {path.name: path.stat().st_size for path in file.parent.glob("*.distcp")}
    theirs, ours = pickle.loads(file.read_bytes()), read_metadata(file, sizes).metadata
    tensors = {n: t for n, t in theirs.state_dict_metadata.items() if hasattr(t, "chunks")}
    assert {n: (t.size, t.chunks) for n, t in ours.state_dict_metadata.items()} == {
        n: (t.size, t.chunks) for n, t in tensors.items()
    }
    assert ours.storage_data == theirs.storage_data


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([".metadata", "__0_0.distcp", "config.json"], [".metadata", "__0_0.distcp"]),
        (["a/.metadata", "a/__0_0.distcp"], ["a/.metadata", "a/__0_0.distcp"]),
        (["optimizer_0/.metadata", "optimizer_0/__0_0.distcp"], []),
        (["__0_0.distcp"], []),
        ([".metadata"], []),
        (["a/.metadata", "a/x.distcp", "b/.metadata", "b/x.distcp"], []),
        (["model/.metadata", "model/x.distcp", "b/.metadata", "b/x.distcp"],
         ["model/.metadata", "model/x.distcp"]),
        ([".metadata", "__0_0.distcp", "common.pt", "metadata.json"], []),
    ],
)  # fmt: skip
def test_files_of_the_model_are_chosen_by_name(names: list[str], expected: list[str]) -> None:
    assert weights(names) == expected


def test_storage_errors_pass(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved({"model": {"a.weight": torch.ones(2)}})

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr("pipeline.checkpoints.formats.dcp_reader._Section.read", fail)
    with pytest.raises(OSError, match="input/output error"):
        weights_of(run)
    assert not issubclass(OSError, CheckpointError)
