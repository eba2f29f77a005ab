"""Write a folder `deepspeed/zeroN-...` of ../sharded.tar.xz with DeepSpeed 0.19.8.

    DS_ACCELERATOR=cpu python -m torch.distributed.run --nproc_per_node 2 write_deepspeed.py \\
        STAGE DTYPE FOLDER

DTYPE: fp32, bf16 or fp16. DeepSpeed's own weights become `weights.pt`. It is no dependency of the
tests, since it is built from source.
"""

import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

stage, dtype, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
deepspeed.init_distributed("gloo")
torch.manual_seed(0)
config = AutoConfig.for_model(
    "llama", vocab_size=31, hidden_size=15, num_hidden_layers=2, num_attention_heads=3,
    head_dim=6, intermediate_size=25, max_position_embeddings=32, initializer_range=0.25,
    tie_word_embeddings=stage == 3,
)  # fmt: skip
model = AutoModelForCausalLM.from_config(config)
if stage == 3:
    model.model.layers[0].mlp.up_proj.requires_grad_(False)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
settings = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": stage},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
    "zero_allow_untested_optimizer": True,
    **({} if dtype == "fp32" else {dtype: {"enabled": True}}),
}
groups = [
    {"params": [one for one in trained if one.ndim > 1], "weight_decay": 0.1},
    {"params": [one for one in trained if one.ndim == 1], "weight_decay": 0.0},
]
engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=settings)
ids = torch.randint(0, 31, (1, 16), generator=torch.Generator().manual_seed(dist.get_rank()))
for _ in range(2):
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
engine.save_checkpoint(folder)
with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
    weights = {name: tensor.clone() for name, tensor in engine.module.state_dict().items()}
if dist.get_rank() == 0:
    torch.save(weights, folder / "weights.pt")
    config.save_pretrained(folder)
