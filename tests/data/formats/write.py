"""Write tests/data/formats: checkpoints and their losses by the libraries that they are of.

These libraries do not go together with those of the project. In an environment of its own:

    pip install torch==2.13.0 numpy pyyaml
    pip install --no-deps litgpt==0.5.13 lightning==2.6.6 lightning-utilities torchmetrics \\
        jsonargparse llama-models==0.3.0 fairscale==0.4.13
    python tests/data/formats/write.py
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

HERE = Path(__file__).parent
VOCABULARY, SEQUENCES, LENGTH = 64, 3, 24


def drawn(module: nn.Module, seed: int) -> None:
    """Draw all weights, so that neither attention nor losses are uniform."""
    generator = torch.Generator().manual_seed(seed)
    for name, one in module.named_parameters():
        scale = 0.2 / math.sqrt(2) if one.ndim == 1 else 0.4
        one.data = scale * torch.randn(one.shape, generator=generator) + (
            1.0 if one.ndim == 1 and name.endswith("weight") else 0.0
        )


def tokens() -> torch.Tensor:
    return torch.randint(
        VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(0)
    )


def write_losses(folder: Path, logits: torch.Tensor) -> None:
    """Write the tokens and the loss (nats) of predicting each but the first."""
    ids = tokens()
    losses = functional.cross_entropy(
        logits[:, :-1].double().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    content = {"tokens": ids.tolist(), "losses": losses.view(SEQUENCES, LENGTH - 1).tolist()}
    (folder / "losses.json").write_text(json.dumps(content))


def litgpt(name: str, seed: int, **settings: object) -> None:
    """Write a checkpoint of litgpt as its training does."""
    from lightning.fabric import Fabric
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import save_config

    folder = HERE / name
    folder.mkdir(exist_ok=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 4, "block_size": 64, "padded_vocab_size": 64,
             "vocab_size": 60, "intermediate_size": 24}  # fmt: skip
    model = GPT(Config(name=name, **sizes, **settings))
    drawn(model, seed)
    with torch.no_grad():
        write_losses(folder, model(tokens()))
    state = {"model": fabric.setup_module(model), "iter_num": 4, "step_count": 1}
    fabric.save(folder / "lit_model.pth", state)
    save_config(model.config, folder)


def meta(name: str, rank: int, devices: int, port: int, **settings: object) -> None:
    """Write one device's file of Meta's Llama; all devices run this at once."""
    import fairscale.nn.model_parallel.initialize as parallel
    import torch.distributed as dist
    from llama_models.llama3.args import ModelArgs
    from llama_models.llama3.model import Transformer

    folder = HERE / name
    folder.mkdir(exist_ok=True)
    params = {"dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": VOCABULARY,
              "multiple_of": 8, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5}  # fmt: skip
    params |= settings
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=devices, rank=rank)
    parallel.initialize_model_parallel(devices)
    model = Transformer(ModelArgs(**params, max_batch_size=SEQUENCES, max_seq_len=64))
    drawn(model, 10 * rank + 3)
    for norm in (one for key, one in model.named_parameters() if "norm" in key):
        dist.broadcast(norm.data, 0)  # the same on all devices
    logits = model(tokens(), 0)
    torch.save(model.state_dict(), folder / f"consolidated.{rank:02}.pth")
    if rank == 0:
        write_losses(folder, logits)
        (folder / "params.json").write_text(json.dumps(params))
    dist.destroy_process_group()


def of_devices(name: str, devices: int, port: int, **settings: object) -> None:
    children = []
    for rank in range(devices):
        if (child := os.fork()) == 0:
            torch.set_num_threads(1)
            meta(name, rank, devices, port, **settings)
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit(f"{name}: a device failed")


if __name__ == "__main__":
    of_devices("meta-one-file", 1, 29611, rope_theta=10000.0)
    of_devices("meta-two-files", 2, 29612, rope_theta=500000.0, use_scaled_rope=True)
    litgpt("litgpt-neox", 1, bias=True, rotary_percentage=0.5)
    litgpt(
        "litgpt-llama", 2, bias=False, rotary_percentage=1.0, parallel_residual=False,
        n_query_groups=2, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", rope_base=500000,
        rope_adjustments={"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_seq_len": 16},
    )  # fmt: skip
