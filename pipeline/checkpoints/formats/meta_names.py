"""The names and the rotations of Meta's Llama code, which llama2.c has too.

Meta's code rotates neighbouring numbers of a query (0 and 1, 2 and 3, ...), transformers those half
a head apart (0 and d/2, ...): rows of W_Q and W_K are reordered, which leaves their products as
they are.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.renaming import renamed, shape_of

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING = "tok_embeddings.weight"
QUERY = "layers.0.attention.wq.weight"
UP = "layers.0.feed_forward.w1.weight"

_NAMES = {
    EMBEDDING: "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "layers.#.attention.wq.weight": "model.layers.#.self_attn.q_proj.weight",
    "layers.#.attention.wk.weight": "model.layers.#.self_attn.k_proj.weight",
    "layers.#.attention.wv.weight": "model.layers.#.self_attn.v_proj.weight",
    "layers.#.attention.wo.weight": "model.layers.#.self_attn.o_proj.weight",
    "layers.#.feed_forward.w1.weight": "model.layers.#.mlp.gate_proj.weight",
    "layers.#.feed_forward.w2.weight": "model.layers.#.mlp.down_proj.weight",
    "layers.#.feed_forward.w3.weight": "model.layers.#.mlp.up_proj.weight",
    "layers.#.attention_norm.weight": "model.layers.#.input_layernorm.weight",
    "layers.#.ffn_norm.weight": "model.layers.#.post_attention_layernorm.weight",
}
# Computed from the config; llama2.c's mask is for attention without torch's own function.
_COMPUTED = r"(^|\.)(rope\.freqs|freqs_cos|freqs_sin|freqs_cis|attention\.mask)$"


def are_meta_names(names: Mapping[str, Any]) -> bool:
    """Return whether tensors have the names of Meta's Llama code."""
    return EMBEDDING in names and QUERY in names


def renamed_llama(
    state: Mapping[str, "Tensor"], config: Mapping[str, Any], model: str
) -> dict[str, "Tensor"]:
    """Return the weights by the names of transformers' Llama, W_Q and W_K with halved rotations.

    model: whose names these are, for messages. Raises ValueError for tensors that Llama lacks.
    """
    found = renamed(state, _NAMES, model, _COMPUTED)
    heads = int(config["num_attention_heads"])
    for end, count in (("q_proj", heads), ("k_proj", config.get("num_key_value_heads") or heads)):
        for name in [name for name in found if name.endswith(f".{end}.weight")]:
            found[name] = halved(found[name], name, int(count))
    return found


def halved(matrix: "Tensor", name: str, heads: int) -> "Tensor":
    """Return W_Q or W_K (rows: of each head in turn) for rotations of numbers half a head apart.

    Raises ValueError for rows that cannot be divided into so many heads of an even size.
    """
    rows, columns = shape_of({name: matrix}, name)
    if rows % (2 * heads):
        raise ValueError(f"its tensor {name!r} has {rows} rows, which {heads} heads cannot share")
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)
