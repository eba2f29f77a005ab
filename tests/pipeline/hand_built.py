"""A model whose mechanisms are known because its weights are written by hand."""

import torch

from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig

VOCABULARY, POSITIONS, WIDTH, D_HEAD, SHARP = 20, 17, 80, 40, 1e3

# The residual stream in parts: the token, its position, the token before it, the output.
TOKEN, POSITION = slice(0, 20), slice(20, 37)
PREVIOUS, OUTPUT = slice(37, 57), slice(57, 77)


def hand_built() -> OrganismForCausalLM:
    """Return two layers of two heads, no norms, no MLP: an induction pair by K-composition.

    Layer 0: head 0 attends to the previous token and writes it to PREVIOUS; head 1 attends to
    what it pleases (0 scores: uniformly) and copies it to OUTPUT. Layer 1: head 0 matches its
    token with PREVIOUS and copies (induction); head 1 has the same pattern and lowers what it
    attends to (anti-induction). W_U reads OUTPUT alone.
    """
    config = OrganismConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        layer_norm=False,
        bos_token_id=0,
    )
    state = {k: torch.zeros_like(v) for k, v in OrganismForCausalLM(config).state_dict().items()}
    tokens, positions = torch.eye(VOCABULARY), torch.eye(POSITIONS)
    state["model.embed_tokens.weight"][:, TOKEN] = tokens
    state["model.embed_positions.weight"][:, POSITION] = positions
    state["lm_head.weight"][:, OUTPUT] = tokens
    shift = torch.diag(torch.ones(POSITIONS - 1), -1)  # from position i to i - 1
    _write(state, 0, 0, q=(POSITION, SHARP * shift), k=(POSITION, positions),
           v=(TOKEN, tokens), o=(PREVIOUS, tokens))  # fmt: skip
    _write(state, 0, 1, v=(TOKEN, tokens), o=(OUTPUT, tokens))
    for head, sign in ((0, 1.0), (1, -1.0)):
        _write(state, 1, head, q=(TOKEN, SHARP * tokens), k=(PREVIOUS, tokens),
               v=(TOKEN, tokens), o=(OUTPUT, sign * tokens))  # fmt: skip
    model = OrganismForCausalLM(config)
    model.load_state_dict(state)
    return model


def _write(state: dict, layer: int, head: int, **matrices: tuple[slice, torch.Tensor]) -> None:
    """Set a head's W_Q, W_K, W_V (rows of the stream) and W_O (columns of it)."""
    for name, (part, matrix) in matrices.items():
        stored = state[f"model.layers.{layer}.self_attn.{name}_proj.weight"].T
        own = slice(head * D_HEAD, head * D_HEAD + len(matrix))
        if name == "o":
            stored[own, part] = matrix
        else:
            stored[part, own] = matrix
