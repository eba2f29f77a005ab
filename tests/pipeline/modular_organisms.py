"""Small models of modular arithmetic, one of them known by construction, and their records."""

import json
from dataclasses import replace

import numpy as np
import torch
from numpy import cos, pi

from pipeline.engine.record import Record
from pipeline.inputs import Input, modular
from pipeline.measures import apply
from pipeline.measures.base import Context, Measure, Setting
from pipeline.models.facts import facts_of
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.table_forward import forward_table
from pipeline.models.weights import ModelWeights


def table_input(p: int, operation: str = "add", train_share: float = 0.4) -> Input:
    tokens, labels = modular.table(p, operation)
    arrays = {"labels": labels, "is_train": modular.split(p, train_share, seed=0)}
    attributes = {"p": p, "operation": operation, "train_share": train_share, "split_seed": 0}
    return Input("table", "table", tokens, arrays, attributes)


def config(p: int, **changes) -> OrganismConfig:
    shape = {"vocab_size": p + 1, "hidden_size": 12, "num_attention_heads": 2,
             "num_hidden_layers": 1, "intermediate_size": 16, "max_position_embeddings": 3,
             "layer_norm": False}  # fmt: skip
    return OrganismConfig(**(shape | changes))


def random_model(p: int) -> OrganismForCausalLM:
    torch.manual_seed(0)
    return OrganismForCausalLM(config(p)).double().eval().requires_grad_(False)


def amplitude(k: int, p: int) -> float:
    """Return the factor of a wave that gives all waves equal parts of W_L, which has ramps."""
    return 1 / (1 - cos(2 * pi * k / p))


@torch.no_grad()
def adding_model(p: int, frequencies: list[int]) -> OrganismForCausalLM:
    """Return a model with the logits sum_k alpha_k cos(w_k(a + b - c)), alpha_k `amplitude`.

    Attention is uniform and carries a + b to '='; one ReLU neuron per value of a + b turns on
    where it is exceeded, so that their combination takes any value at each integer.
    """
    made = config(p, intermediate_size=2 * p - 1, hidden_size=2 * p + 2, mlp_bias=True,
                  initializer_range=0.0)  # fmt: skip
    model = OrganismForCausalLM(made).double()
    layer = model.model.layers[0]
    model.model.embed_tokens.weight[:p, 0] = 3.0 * torch.arange(p)
    layer.self_attn.v_proj.weight[0, 0] = 1.0
    layer.self_attn.o_proj.weight[1, 0] = 1.0
    total = torch.arange(2 * p - 1)
    layer.mlp.up_proj.weight[:, 1] = 1.0
    layer.mlp.up_proj.bias[:] = 1.0 - total
    wanted = sum(
        amplitude(k, p)
        * torch.cos(2 * pi * k / p * (total[:, None] - torch.arange(p)[None]).double())
        for k in frequencies
    )
    ramps = (total[:, None] + 1 - total[None, :]).clamp(min=0).double()
    # W_out copies the first p waves' values into the residual, W_U is the identity on them.
    layer.mlp.down_proj.weight[2 : p + 2] = torch.linalg.solve(ramps, wanted).T
    model.lm_head.weight[:p, 2 : p + 2] = torch.eye(p, dtype=torch.float64)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def record(model: OrganismForCausalLM, table: Input) -> Record:
    """Return logits of the plain pass, and neurons by the factorised one, tested elsewhere."""
    logits = model(torch.from_numpy(table.tokens)).logits[:, -1]
    neurons = forward_table(model, table.attributes["p"]).neurons
    return Record(table, logits={-1: logits}, neurons=neurons)


def weights(model: OrganismForCausalLM) -> ModelWeights:
    return ModelWeights(model, facts_of(model.config))


def context(model: OrganismForCausalLM, table: Input | None = None) -> Context:
    """Return a measure's context of a model with a table, after one pass over it."""
    records = () if table is None else (record(model, table),)
    return Context(Setting(facts_of(model.config), table), weights(model), records)


def measured(measure: Measure, model: OrganismForCausalLM, table: Input, reference=None) -> dict:
    """Return a measure's values; the reference defaults to the model itself."""
    given = context(model, table)
    if reference is None and measure.reference_from:
        reference = json.loads(json.dumps(measure.reference(given)))
    return apply.compute(measure, replace(given, stored_reference=reference))


def loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    own = logits[np.arange(len(labels)), labels]
    others = np.exp(logits - own[:, None])
    others[np.arange(len(labels)), labels] = 0
    return np.log1p(others.sum(axis=1))
