"""Checkpoints that are small enough to be written by the dozen."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

WriteCheckpoint = Callable[..., Path]

CONFIG = {"model_type": "gpt_neox", "hidden_size": 4}


def tensors(step: int) -> dict[str, np.ndarray]:
    """Two weights that tell their step."""
    generator = np.random.default_rng(step)
    return {
        "a.weight": generator.normal(size=(4, 3)).astype(np.float32),
        "b.weight": generator.normal(size=(5,)).astype(np.float32),
    }


def write_shards(folder: Path, content: Mapping[str, np.ndarray], suffix: str) -> None:
    """One tensor per shard, and the index that says where each is."""
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
    """`write_checkpoint(folder, step, suffix=".safetensors", sharded=False)`: one checkpoint."""

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
