"""Write one model in the layouts of torch.distributed.checkpoint, of two processes: `FOLDER`.

    python -m torch.distributed.run --nproc_per_node 2 write_sharded.py FOLDER

whole/ is the model itself, by save_pretrained. accelerate's own function writes the layouts of the
Trainer: pytorch_model_fsdp_0/ and pytorch_model_fsdp.bin.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import save_fsdp_model, save_fsdp_optimizer
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM

folder = Path(sys.argv[1])
dist.init_process_group("gloo")
torch.manual_seed(0)
config = AutoConfig.for_model(
    "llama", vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=25, max_position_embeddings=32, initializer_range=0.25,
)  # fmt: skip
model = AutoModelForCausalLM.from_config(config)
if dist.get_rank() == 0:
    model.save_pretrained(folder / "whole")
mesh = init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
ids = torch.arange(32).reshape(2, 16) % 31
model(input_ids=ids, labels=ids).loss.backward()
optimizer.step()
weights, states = get_state_dict(model, optimizer)

dcp.save({"app": {"model": weights, "optim": states}}, checkpoint_id=folder / "app" / "step-1")
titan = {**weights, "optimizer": states, "train_state": {"step": torch.tensor(1)}}
dcp.save(titan, checkpoint_id=folder / "flat" / "step-1")
for kind in ("SHARDED_STATE_DICT", "FULL_STATE_DICT"):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type=kind)
    accelerator = Accelerator(cpu=True)
    save_fsdp_model(plugin, accelerator, model, folder / kind / "step-1")
    save_fsdp_optimizer(plugin, accelerator, optimizer, model, folder / kind / "step-1")
dist.destroy_process_group()
