"""Every measure of grokking, from a run's files to the store, against its formula in plain numpy.

The forward pass, the key frequencies of the last checkpoint and all that follows from them are
built anew here, in float64 and without a line of the pipeline.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy import cos, pi, sin
from safetensors.numpy import load_file, save_file

from pipeline import Analysis, analyze, open_run
from pipeline.inputs import modular
from pipeline.training import Training, train

P, SHARE, HEADS = 13, 0.6, 2
MEASURES = (
    "modular_addition", "restricted_loss", "excluded_loss", "key_frequencies", "neuron_clusters",
    "logit_waves", "lottery_ticket", "embedding_plane", "weight_norm",
)  # fmt: skip
FREQUENCIES = range(1, P // 2 + 1)
X = np.arange(P)
A, B = (grid.ravel() for grid in np.mgrid[:P, :P])


def analysed(folder: Path, p: int = P, operation: str = "add", steps: int = 260) -> xr.DataTree:
    """A small run, trained; its last checkpoint is sharpened until its losses are tiny."""
    training = Training.model_validate(
        {
            "name": "by-hand",
            "output": str(folder / "run"),
            "task": {"kind": "modular_arithmetic", "p": p, "operation": operation,
                     "train_share": SHARE},
            "model": {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": HEADS,
                      "intermediate_size": 48, "layer_norm": False},
            "optimizer": {"learning_rate": 1e-2, "weight_decay": 1.0, "betas": [0.9, 0.98]},
            "steps": steps,
            "threads": 1,
            "checkpoints": {"log_until": 0, "every": 130},
        }
    )  # fmt: skip
    train(training)
    last = folder / "run" / f"step-{steps}" / "model.safetensors"
    weights = load_file(last)
    weights["lm_head.weight"] *= 5
    save_file(weights, last, metadata={"format": "pt"})
    analysis = Analysis.model_validate(
        {"checkpoints": str(folder / "run"), "store": str(folder / "store.zarr"),
         "measures": list(MEASURES), "workers": {"threads": 1}}
    )  # fmt: skip
    assert not analyze(analysis).failed
    return open_run(str(folder / "store.zarr"))


class ByHand:
    """One checkpoint's weights in row convention, and its activations at '=' for all pairs."""

    def __init__(self, folder: Path) -> None:
        stored = load_file(folder / "model.safetensors")
        self.saved = {name: w.astype(np.float64) for name, w in stored.items()}
        w = {name.split(".")[-2]: matrix for name, matrix in self.saved.items()}
        self.W_E, self.W_U = w["embed_tokens"][:P], w["lm_head"][:P].T
        x = w["embed_tokens"][np.stack([A, B, np.full_like(A, P)], axis=1)] + w["embed_positions"]
        q, k, v = (
            (x @ w[f"{name}_proj"].T).reshape(P * P, 3, HEADS, -1).swapaxes(1, 2) for name in "qkv"
        )
        scores = np.exp((q[:, :, 2:] * k).sum(axis=3) / np.sqrt(q.shape[3]))
        attention = scores / scores.sum(axis=2, keepdims=True)
        z = (attention[..., None] * v).sum(axis=2).reshape(P * P, -1)
        middle = x[:, 2] + z @ w["o_proj"].T
        self.neurons = np.maximum(middle @ w["up_proj"].T, 0)
        self.logits = (middle + self.neurons @ w["down_proj"].T) @ self.W_U
        self.W_L = w["down_proj"].T @ self.W_U


def waves(k: int, x: np.ndarray) -> np.ndarray:
    return np.stack([cos(2 * pi * k * x / P), sin(2 * pi * k * x / P)])


def powers(f: np.ndarray) -> np.ndarray:
    """Squared norms of the cosine and the sine component [frequency, 2] of f [residue, n]."""
    each = [((np.sqrt(2 / P) * waves(k, X) @ f) ** 2).sum(axis=1) for k in FREQUENCIES]
    return np.stack(each)


def gini(f: np.ndarray) -> float:
    norms = np.sqrt(powers(f)).ravel()
    return np.abs(norms[:, None] - norms).sum() / (2 * len(norms) * norms.sum())


def on_waves(f: np.ndarray, keys: list[int]) -> np.ndarray:
    """The projection of each column of f [pair, n] on cos and sin(w_k(a + b))."""
    kept = np.zeros_like(f)
    for k in keys:
        for wave in waves(k, A + B):
            kept += np.outer(wave, wave @ f) / (wave @ wave)
    return kept


def losses(logits: np.ndarray) -> np.ndarray:
    answer = (A + B) % P
    own = logits[np.arange(P * P), answer]
    others = np.exp(logits - own[:, None])
    others[np.arange(P * P), answer] = 0
    return np.log1p(others.sum(axis=1))


def block(k: int) -> np.ndarray:
    ones = np.ones(P * P)
    return np.stack([u * v for u in (ones, *waves(k, A)) for v in (ones, *waves(k, B))], axis=1)


def neuron_shares(neurons: np.ndarray) -> np.ndarray:
    """Share of each neuron's variance [frequency, neuron] that its 3 x 3 block explains."""
    centred = neurons - neurons.mean(axis=0)
    with np.errstate(invalid="ignore"):
        total = np.where((neurons == neurons[0]).all(axis=0), np.nan, (centred**2).sum(axis=0))
    fits = [block(k) @ np.linalg.lstsq(block(k), centred, rcond=None)[0] for k in FREQUENCIES]
    return np.stack([(fit**2).sum(axis=0) / total for fit in fits])


def clusters(shares: np.ndarray) -> dict[int, np.ndarray]:
    """The neurons of each frequency that has any."""
    best, most = np.nan_to_num(shares, nan=-1).argmax(axis=0), np.nan_to_num(shares).max(axis=0)
    found = {k: np.flatnonzero((best == k - 1) & (most >= 0.85)) for k in FREQUENCIES}
    return {k: neurons for k, neurons in found.items() if len(neurons)}


def keys_by_rule(last: ByHand) -> dict[str, list[int]]:
    spectrum, embedding = powers(last.W_L.T).sum(axis=1), np.sqrt(powers(last.W_E)).max(axis=1)
    return {
        "neuron_logit": list(1 + np.flatnonzero(spectrum >= 0.1 * spectrum.max())),
        "embedding": list(1 + np.flatnonzero(embedding >= embedding.max() / 4)),
        "clusters": list(clusters(neuron_shares(last.neurons))),
    }


def at(keys: Any, values: Any, missing: float = np.nan) -> np.ndarray:
    """Values at frequencies, and `missing` at all others."""
    found = np.full(len(FREQUENCIES), missing)
    for k, value in zip(keys, values, strict=True):
        found[k - 1] = value
    return found


def main_measures(one: ByHand, last: ByHand, is_train: np.ndarray) -> dict[str, Any]:
    logits, keys = one.logits, keys_by_rule(last)
    mean, kept = logits.mean(axis=0), on_waves(logits, keys_by_rule(last)["neuron_logit"])
    neurons = on_waves(one.neurons, keys["neuron_logit"]) @ one.W_L + mean
    cosines = [cos(2 * pi * k * ((A + B)[:, None] - X) / P) for k in FREQUENCIES]
    alpha = np.array([(wave * logits).sum() / (wave**2).sum() for wave in cosines])
    centred = logits - logits.mean()
    explained = np.array(
        [2 * a * (w * centred).sum() - a**2 * (w**2).sum()
         for a, w in zip(alpha, cosines, strict=True)]
    ) / (centred**2).sum()  # fmt: skip
    without = [losses(logits - on_waves(logits, [k]))[is_train].mean() for k in FREQUENCIES]
    found = {
        "modular_addition/train_loss": losses(logits)[is_train].mean(),
        "modular_addition/test_loss": losses(logits)[~is_train].mean(),
        "modular_addition/restricted_loss": losses(kept + mean).mean(),
        "modular_addition/excluded_loss": losses(logits - kept)[is_train].mean(),
        "modular_addition/gini_embedding": gini(one.W_E),
        "modular_addition/gini_neuron_logit": gini(one.W_L.T),
        "modular_addition/logit_variance_explained":
            explained[np.array(keys["neuron_logit"]) - 1].sum(),
        "modular_addition/embedding_norm": np.sqrt(powers(one.W_E).sum(axis=1)),
        "restricted_loss/train": losses(kept + mean)[is_train].mean(),
        "restricted_loss/test": losses(kept + mean)[~is_train].mean(),
        "restricted_loss/all_without_mean": losses(kept).mean(),
        "restricted_loss/train_without_mean": losses(kept)[is_train].mean(),
        "restricted_loss/test_without_mean": losses(kept)[~is_train].mean(),
        "restricted_loss/neurons_test": losses(neurons)[~is_train].mean(),
        "excluded_loss/by_frequency": without,
        "excluded_loss/largest": max(without),
        "logit_waves/coefficient": alpha,
        "logit_waves/variance_explained": explained,
    }  # fmt: skip
    named = {"embedding": ("all_embedding_keys", "embedding_keys"),
             "clusters": ("all_cluster_keys", "cluster_keys")}  # fmt: skip
    for rule, (restricted, excluded) in named.items():
        kept = on_waves(logits, keys[rule])
        found[f"restricted_loss/{restricted}"] = losses(kept + mean).mean()
        found[f"excluded_loss/{excluded}"] = losses(logits - kept)[is_train].mean()
    return found


def neuron_measures(one: ByHand) -> dict[str, Any]:
    shares = neuron_shares(one.neurons)
    found, constant = clusters(shares), np.isnan(shares[0])
    held = []
    for neurons in found.values():
        squared = np.linalg.svd(one.neurons[:, neurons], compute_uv=False) ** 2
        held.append(squared.cumsum() / squared.sum())
    best = 1.0 + np.nan_to_num(shares).argmax(axis=0)
    rules = {name: at(keys, [1] * len(keys), 0) for name, keys in keys_by_rule(one).items()}
    return {
        "neuron_clusters/variance_share": shares.max(axis=0),
        "neuron_clusters/best_frequency": np.where(constant, np.nan, best),
        "neuron_clusters/cluster_size": at(found, [len(n) for n in found.values()], 0),
        "neuron_clusters/cluster_rank": at(found, [1 + (h < 0.95).sum() for h in held]),
        "neuron_clusters/cluster_top_nine": at(found, [h[:9][-1] for h in held]),
        "key_frequencies/neuron_logit_norm": np.sqrt(powers(one.W_L.T).sum(axis=1)),
        **{f"key_frequencies/by_{rule}": marks for rule, marks in rules.items()},
    }


def weight_measures(one: ByHand, last: ByHand) -> dict[str, Any]:
    keys, ratios, ranks = keys_by_rule(last)["neuron_logit"], [], []
    for k in FREQUENCIES:
        directions = waves(k, X) @ last.W_E
        along = one.W_E @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
        power = np.abs(np.fft.fft(along, axis=0)[1 : P // 2 + 1]) ** 2
        ratios.append((power[k - 1] / power.sum(axis=0) * (P - 1) / 2).mean())
        ranks.append((1 + (power > power[k - 1]).sum(axis=0)).mean())
    of_keys = [ratios[k - 1] for k in keys]
    of_others = [ratios[k - 1] for k in FREQUENCIES if k not in keys]
    above = [a > b for a in of_keys for b in of_others]
    _, _, axes = np.linalg.svd(last.W_E - last.W_E.mean(axis=0))
    axes = np.array([axis * np.sign(axis[np.abs(axis).argmax()]) for axis in axes[:2]])
    centred = one.W_E - one.W_E.mean(axis=0)
    plane = centred @ axes.T
    z = np.abs(np.fft.fft(plane[:, 0] + 1j * plane[:, 1]))[1:] ** 2
    squares = np.array([(w**2).sum() for w in one.saved.values()])
    return {
        "lottery_ticket/power_ratio": ratios,
        "lottery_ticket/rank": ranks,
        "lottery_ticket/mean_power_ratio": np.mean(of_keys),
        "lottery_ticket/mean_rank": np.mean([ranks[k - 1] for k in keys]),
        "lottery_ticket/other_power_ratio": np.mean(of_others),
        "lottery_ticket/other_rank": np.mean([ranks[k - 1] for k in FREQUENCIES if k not in keys]),
        "lottery_ticket/keys_above_others": np.mean(above),
        "embedding_plane/first": plane[:, 0],
        "embedding_plane/second": plane[:, 1],
        "embedding_plane/variance_share": (plane**2).sum() / (centred**2).sum(),
        "embedding_plane/circularity": z.max() / z.sum(),
        "embedding_plane/circle_frequency": min(z.argmax() + 1, P - 1 - z.argmax()),
        "weight_norm/sum_of_squares": squares.sum(),
    }


def test_every_variable_in_the_store_is_what_its_formula_says(tmp_path: Path):
    tree = analysed(tmp_path)
    is_train = modular.split(P, SHARE, seed=0)
    last = ByHand(tmp_path / "run" / "step-260")
    assert losses(last.logits)[is_train].mean() < 1e-8
    for step in (0, 130, 260):
        one = ByHand(tmp_path / "run" / f"step-{step}")
        expected = main_measures(one, last, is_train) | neuron_measures(one)
        expected |= weight_measures(one, last)
        for address, value in expected.items():
            found = tree[address].sel(step=step).values
            np.testing.assert_allclose(
                found, value, rtol=1e-9, atol=1e-13, err_msg=f"{address} at step {step}"
            )
        by_parameter = tree["weight_norm/by_parameter"].sel(step=step)
        for name, weight in one.saved.items():
            assert float(by_parameter.sel(parameter=name)) == pytest.approx(
                (weight**2).sum(), rel=1e-9
            )
        stored = {f"{group}/{name}" for group in MEASURES for name in tree[group].data_vars}
        assert stored == {*expected, "weight_norm/by_parameter"}


@pytest.mark.parametrize(
    ("p", "operation"),
    [(10, "x2_y2"), (9, "multiply"), (6, "compose"), (7, "random"), (3, "subtract")],
)
def test_any_p_and_operation_and_a_reason_for_every_nan(tmp_path: Path, p: int, operation: str):
    tree = analysed(tmp_path, p, operation, steps=1)
    for group in MEASURES:
        data = tree[group].to_dataset().load()
        said = data.attrs["undefined"]
        named = said.partition(":")[0].split(", ") if said else []
        assert not named or operation != "subtract" or "one frequency" in said
        for name in named:
            assert data[name].isnull().all(), name
        for name in set(data.data_vars) - set(named) - {"cluster_rank", "cluster_top_nine"}:
            assert data[name].notnull().any(), f"{group}/{name}"
        assert data.attrs["computed_in"]["dtype"] == "float64"
    keys = tree["modular_addition"].attrs["reference_values"]["key_frequencies"]
    assert bool(keys) == (operation == "subtract")
