"""A random model, and the losses of the same model without some heads."""

import numpy as np
import torch

from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.inputs import Input
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident

D_HEAD = 8


def random_resident(**options) -> Resident:
    """Return a model of two layers of four heads whose weights are large enough to matter."""
    torch.manual_seed(0)
    config = OrganismConfig(hidden_size=32, num_attention_heads=4, **options)
    made = Resident(config)
    state = OrganismForCausalLM(config).state_dict()
    made.swap({name: w + 0.2 * torch.randn_like(w) for name, w in state.items()})
    return made


def blocks(resident: Resident) -> Input:
    """Return six sequences of repeated random tokens."""
    return make_input("repeated", RepeatedInput(block_length=8, sequences=6), "", resident.facts)


def of_repeats(change: np.ndarray, made: Input) -> float:
    """Return the mean over the predictions after each sequence's first block."""
    lengths = made.arrays["block_length"]
    return np.concatenate([of[n:] for of, n in zip(change, lengths, strict=True)]).mean()


def losses(model, tokens: np.ndarray) -> np.ndarray:
    """Return a plain model's loss of every token but the first."""
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        log_p = model(ids).logits.log_softmax(-1)[:, :-1]
    return -log_p.gather(-1, ids[:, 1:, None])[..., 0].double().numpy()


def plain(resident: Resident, *without: tuple[int, int]) -> OrganismForCausalLM:
    """Return the model in transformers' own code; heads in `without` have zero output weights."""
    model = OrganismForCausalLM(resident.module.config).eval()
    state = {name: w.clone() for name, w in resident.weights.items()}
    for layer, head in without:
        own = slice(D_HEAD * head, D_HEAD * (head + 1))
        state[f"model.layers.{layer}.self_attn.o_proj.weight"][:, own] = 0
    model.load_state_dict(state)
    return model


def without(resident: Resident, made: Input, *heads: tuple[int, int]) -> np.ndarray:
    """Return the change of every loss in a model whose heads have zero output weights."""
    return losses(plain(resident, *heads), made.tokens) - losses(plain(resident), made.tokens)
