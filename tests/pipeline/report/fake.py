"""Runs made by hand, with the names, dimensions and attributes of `open_run`."""

import numpy as np
import xarray as xr

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(550, 2001, 50)])
HEAD = ("step", "layer", "head")


def rising(steps, middle, low=0.0, high=1.0, width=25.0):
    """Return a sigmoid of the step, half-way at `middle`."""
    return low + (high - low) / (1 + np.exp(-(steps - middle) / width))


def group(
    measure: str,
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]],
    steps: np.ndarray,
    input: str | None = "repeated",
    coords: dict | None = None,
    **attributes,
) -> xr.Dataset:
    """Return one group; units are nats for losses and in-context scores, else "1"."""
    dataset = xr.Dataset(
        variables,
        {
            "step": steps,
            "tokens_seen": ("step", steps * 4096.0),
            "uri": ("step", [f"/runs/step-{step}" for step in steps]),
            "digest": ("step", [f"{step:08x}" for step in steps]),
            **(coords or {}),
        },
        {"measure": measure, "version": 1, "parameters": {}, "reference_values": None,
         "input": input and {"name": input, "kind": "random", "digest": f"digest of {input}"},
         "definition": f"What {measure} is.", **attributes},
    )  # fmt: skip
    for name, values in dataset.data_vars.items():
        unit = "nats" if "loss" in str(name) or str(name).startswith(("mean", "in_")) else "1"
        values.attrs = {"unit": unit, "definition": f"Meaning of {name}.", "references": "A paper"}
    for dim in ("layer", "head", "position", "sequence"):
        if dim in dataset.sizes and dim not in dataset.coords:
            dataset = dataset.assign_coords({dim: np.arange(dataset.sizes[dim])})
    return dataset


def head_scores(steps=STEPS, layers=2, heads=4, seed=0, **attributes) -> xr.Dataset:
    """Return head scores of forming heads.

    L1H1 and L1H3 become induction heads around steps 900 and 1000; L0H2 previous-token at 700.

    With other numbers of layers and heads, the same heads of the last and the first layer.
    """
    noise = np.random.default_rng(seed).uniform(0.02, 0.08, (5, len(steps), layers, heads))
    induction, previous, duplicate, first, current = noise
    induction[:, -1, 1] = rising(steps, 900, 0.05, 0.95)
    induction[:, -1, 3] = rising(steps, 1000, 0.05, 0.8)
    previous[:, 0, 2] = rising(steps, 700, 0.05, 0.99)
    duplicate[:, 0, 0] = rising(steps, 600, 0.05, 0.4)
    names = ("induction", "previous_token", "duplicate_token", "first_token", "current_token")
    values = (induction, previous, duplicate, first, current)
    arrays = {name: (HEAD, value.astype("f4")) for name, value in zip(names, values, strict=True)}
    arrays |= nulls(steps, layers, heads)
    return group("head_scores", arrays, steps, **attributes)


def nulls(steps, layers, heads, value=0.0) -> dict:
    """Return the nulls of head scores, one value or one per step; uniform attention: 0."""
    by_step = np.broadcast_to(value, len(steps))
    by_head = np.tile(by_step[:, None, None], (1, layers, heads))
    named = {f"{name}_null": (HEAD, by_head) for name in ("induction", "duplicate_token")}
    return named | {"uniform_null": ("step", np.zeros(len(steps)))}


def token_loss(steps=STEPS, length=64, **attributes) -> xr.Dataset:
    """Return losses whose in-context score falls around step 925."""
    position = np.arange(length - 1)
    late = 1 / (1 + np.exp(-(position - 12) / 4))
    by_position = (
        4.16 - rising(steps, 60, 0, 0.9, 30)[:, None] - rising(steps, 925)[:, None] * 1.5 * late
    )
    loss = np.repeat(by_position[:, None], 3, axis=1)
    arrays = {
        "loss": (("step", "sequence", "position"), loss),
        "mean_by_position": (("step", "position"), by_position),
        "mean": ("step", by_position.mean(axis=1)),
        "in_context_score": ("step", by_position[:, -4] - by_position[:, 9]),
    }
    attributes.setdefault("input", "held_out")
    given = {"early_token": 10, "late_token": 60}
    return group("token_loss", arrays, steps, **({"parameters": given} | attributes))


def modular_addition(steps=None, p=59, **attributes) -> xr.Dataset:
    """Return progress measures of a run that groks.

    Train, restricted and test loss are first below 0.1 at steps 140, 420 and 720."""
    steps = np.arange(0, 1501, 20) if steps is None else steps

    def falling(middle, width, floor):
        return 10 ** (np.log10(4.1) - rising(steps, middle, 0, np.log10(4.1 / floor), width))

    frequency = np.arange(1, (p - 1) // 2 + 1)
    norms = np.full((len(steps), len(frequency)), 1.0) * rising(steps, 600, 1, 0.3, 100)[:, None]
    for key in (3, 14, 22):
        norms[:, key - 1] = rising(steps, 400, 1, 6 + key / 10, 60)
    arrays = {
        "train_loss": ("step", falling(150, 25, 1e-6)),
        "test_loss": ("step", falling(757, 40, 1e-5) + rising(steps, 100, 0, 3, 20) *
                      (1 - rising(steps, 640, 0, 1, 10))),
        "restricted_loss": ("step", falling(450, 40, 1e-5)),
        "excluded_loss": ("step", falling(150, 25, 0.4) + rising(steps, 500, 0, 9, 90)),
        "gini_embedding": ("step", rising(steps, 400, 0.1, 0.7, 80)),
        "gini_neuron_logit": ("step", rising(steps, 380, 0.1, 0.8, 60)),
        "logit_variance_explained": ("step", rising(steps, 350, 0.0, 0.95, 60)),
        "embedding_norm": (("step", "frequency"), norms),
    }  # fmt: skip
    keys = {"reference_values": {"key_frequencies": [3, 14, 22]}}
    attributes = {"input": "table", "parameters": {"key_share": 0.1}, **keys, **attributes}
    return group("modular_addition", arrays, steps, coords={"frequency": frequency}, **attributes)


def weight_norm(steps=STEPS, parameters=None, **attributes) -> xr.Dataset:
    """Return norms that rise and then fall, more for earlier parameters."""
    names = parameters or ["embed.weight", "model.layers.0.attention.q_proj.weight", "unembed"]
    bump = 1 + np.exp(-(((steps - 700) / 400) ** 2))
    by_parameter = bump[:, None] * np.arange(len(names), 0, -1) * 10.0
    arrays = {
        "sum_of_squares": ("step", by_parameter.sum(axis=1)),
        "by_parameter": (("step", "parameter"), by_parameter),
    }
    return group("weight_norm", arrays, steps, None, {"parameter": names}, **attributes)


def run_of(**groups: xr.Dataset) -> xr.DataTree:
    """Return a tree of the groups, in the form of `open_run`."""
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {"identity": {"checkpoints": "/runs", "architecture": "abc123"}}  # pyright: ignore
    return tree


def induction_run() -> xr.DataTree:
    """Return a two-layer run in which induction heads form."""
    return run_of(head_scores=head_scores(), token_loss=token_loss(), weight_norm=weight_norm())


def grokking_run() -> xr.DataTree:
    """Return a run that memorises, forms its circuit, and generalises."""
    steps = np.arange(0, 1501, 20)
    return run_of(modular_addition=modular_addition(), weight_norm=weight_norm(steps))
