"""Small models, and how a checkpoint is read from a run: what the tests of formats share."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipeline import Analysis, analyze, open_run
from pipeline.checkpoints import RunLayout, list_run
from pipeline.checkpoints.fetch import Copies
from pipeline.models.weights import read_weights

DATA = Path(__file__).parents[3] / "data" / "sharded.tar.xz"
IDS = np.arange(64).reshape(4, 16) % 31


def unpacked(folder: Path) -> Path:
    """Unpack the files that DeepSpeed and OLMo-core wrote; return their folder."""
    with tarfile.open(DATA) as archive:
        archive.extractall(folder, filter="data")
    return folder


def tiny(kind: str = "llama", seed: int = 0, **settings: object) -> PreTrainedModel:
    """Return a model of random weights, large enough for its losses to differ."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32,
             "initializer_range": 0.25}  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | settings)).eval()


def losses_by(model: torch.nn.Module) -> np.ndarray:
    """Return the losses (nats) [sequence, position] of a model's own forward pass."""
    ids = torch.from_numpy(IDS)
    with torch.no_grad():
        log_p = model(ids).logits.float().log_softmax(-1)
    return -log_p[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].numpy()


def losses_of(run: Path | str, store: Path, **settings: object) -> np.ndarray:
    """Return the losses [step, sequence, position] of an analysis of a run."""
    np.save(store.with_suffix(".npy"), IDS)
    text = {"kind": "array", "path": str(store.with_suffix(".npy")), "sequences": 4, "length": 16}
    summary = analyze(
        Analysis.model_validate(
            {
                "checkpoints": str(run),
                "store": str(store),
                "inputs": {"text": text},
                "measures": {"token_loss": {"early_token": 4, "late_token": 14}},
                **settings,
            }
        )
    )
    assert not summary.failed, summary.failed
    return open_run(str(store))["token_loss"].loss.to_numpy()


def weights_of(run: Path | str, layout: RunLayout | None = None) -> dict[str, Tensor]:
    """Return the weights of a run's only checkpoint."""
    (checkpoint,) = list_run(str(run), layout=layout).checkpoints
    with Copies().of(checkpoint) as copy:
        config = copy.config
        return copy.read(lambda parts: read_weights(parts, config))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Assert that two state dicts have equal tensors, of equal dtypes."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


def failure_of(run: Path | str) -> str:
    """Return the sentence in which a run's only checkpoint is refused."""
    from pipeline.errors import CheckpointError

    with pytest.raises(CheckpointError) as caught:
        weights_of(run)
    return str(caught.value)
