"""Small checkpoints, an imitated Hub and an imitated S3 server."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from safetensors.numpy import save_file

from pipeline import retrying
from pipeline.checkpoints.fetch import Copy
from tests.pipeline.checkpoints.servers import LARGE, Hub, Proxy

WriteCheckpoint = Callable[..., Path]

CONFIG = {"model_type": "known-to-nobody", "hidden_size": 4}


def folder_of(copy: Copy) -> Path:
    """Return the folder on this machine that the weights of a checkpoint are in."""
    return next(iter(copy.parts.files.values())).parent


def tensors(step: int) -> dict[str, np.ndarray]:
    """Return two random weights that depend on the step."""
    generator = np.random.default_rng(step)
    return {
        "a.weight": generator.normal(size=(4, 3)).astype(np.float32),
        "b.weight": generator.normal(size=(5,)).astype(np.float32),
    }


def write_shards(folder: Path, content: Mapping[str, np.ndarray], suffix: str) -> None:
    """Write one tensor per shard, and an index of the shards."""
    safe = suffix == ".safetensors"
    stem, count = ("model" if safe else "pytorch_model"), len(content)
    weight_map = {}
    for number, (name, value) in enumerate(sorted(content.items()), start=1):
        shard = f"{stem}-{number:05d}-of-{count:05d}{suffix}"
        weight_map[name] = shard
        if safe:
            save_file({name: value}, folder / shard)
        else:
            torch.save({name: torch.from_numpy(value)}, folder / shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


@pytest.fixture
def write_checkpoint() -> WriteCheckpoint:
    """Return `write_checkpoint(folder, step, suffix=".safetensors", sharded=False)`."""

    def write(
        folder: Path, step: int = 0, suffix: str = ".safetensors", sharded: bool = False
    ) -> Path:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        content = tensors(step)
        if sharded:
            write_shards(folder, content, suffix)
        elif suffix == ".safetensors":
            save_file(content, folder / "model.safetensors")
        else:
            plain = {name: torch.from_numpy(value) for name, value in content.items()}
            torch.save(plain, folder / "pytorch_model.bin")
        return folder

    return write


def _write_large(folder: Path, step: int, sharded: bool = False) -> Path:
    """Write a checkpoint whose weights are large enough for git-lfs, and so have a sha256."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    content = {
        name: np.random.default_rng([step, i]).normal(size=LARGE // 4).astype(np.float32)
        for i, name in enumerate("ab")
    }
    if not sharded:
        save_file(content, folder / "model.safetensors")
        return folder
    for name, value in content.items():
        save_file({name: value}, folder / f"{name}.safetensors")
    weight_map = {name: f"{name}.safetensors" for name in content}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def write_large() -> WriteCheckpoint:
    """Return `write_large(folder, step, sharded=False)`, whose files the Hub keeps by sha256."""
    return _write_large


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Start an empty hub, named by `HF_ENDPOINT`, with an empty cache."""
    pytest.importorskip("httpx2", reason="the extra hub is not installed")
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / "cache"))
        yield server


@contextmanager
def imitated_s3() -> Iterator[dict[str, str]]:
    """Start a server that imitates S3 without checking signatures; yield its environment."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
        "AWS_SECRET_ACCESS_KEY": "a-very-secret-key-of-these-tests",
    }
    server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """Yield the environment that names an S3 server."""
    with imitated_s3() as environment:
        yield environment


@pytest.fixture
def s3(
    s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Proxy]:
    """Start a proxy of an S3 server with the empty bucket `runs`, named by the environment."""
    with Proxy(s3_server["AWS_ENDPOINT_URL"].removeprefix("http://")) as proxy:
        for name, value in {
            **s3_server,
            "AWS_ENDPOINT_URL": proxy.url,
            "ONTOGENY_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        filesystem = S3FileSystem(use_listings_cache=False)
        if filesystem.exists("runs"):
            filesystem.rm("runs", recursive=True)
        filesystem.mkdir("runs")
        proxy.forget()
        yield proxy
        S3FileSystem.clear_instance_cache()


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between attempts, our own and those of the libraries."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.05)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))
