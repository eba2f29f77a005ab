"""Write the folder `olmo_core` of ../sharded.tar.xz with ai2-olmo-core 3.0.0.

A model of the shape of OLMo 2 (norms after each part, and of queries and keys), its optimizer's
state beside it, the config.json by which transformers builds it, and OLMo-core's own losses.
"""

import json
from pathlib import Path

import torch
from olmo_core.distributed.checkpoint import save_model_and_optim_state
from olmo_core.nn.attention import AttentionBackendName
from olmo_core.nn.hf.config import get_hf_config
from olmo_core.nn.transformer import TransformerBlockType, TransformerConfig

folder = Path("olmo_core")
folder.mkdir()
torch.manual_seed(0)
config = TransformerConfig.llama_like(
    vocab_size=31, d_model=16, n_layers=2, n_heads=2, hidden_size_multiplier=1.0,
    hidden_size_multiple_of=8, qk_norm=True, block_name=TransformerBlockType.reordered_norm,
    layer_norm_eps=1e-6, attn_backend=AttentionBackendName.torch,
)  # fmt: skip
model = config.build(init_device="cpu")
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.25)
ids = torch.arange(64).reshape(4, 16) % 31
optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
logits = model(ids)
losses = torch.nn.functional.cross_entropy(
    logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
)
losses.mean().backward()
optimizer.step()
save_model_and_optim_state(
    str(folder / "step1" / "model_and_optim"), model, optimizer, save_overwrite=True
)
hf_config = get_hf_config(model)
hf_config.max_position_embeddings = 64
hf_config.save_pretrained(folder)
(folder / "losses.json").write_text(json.dumps(losses.tolist()))
