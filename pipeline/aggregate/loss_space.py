"""Principal components, over checkpoints, of the losses on every token.

A checkpoint is a point with as many coordinates as there are tokens (Olsson et al. 2022). There are
few checkpoints and many tokens, so the components follow from the checkpoints' Gram matrix, which
is summed over blocks of tokens in float64: nothing of the size of the losses is held beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from pipeline.aggregate.blocks import Block, in_order, over_tokens, parts
from pipeline.aggregate.variables import check_same_tokens, variable
from pipeline.errors import InputError

VERSION = 1  # another where the same losses give other numbers
_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
_FEWEST = 3  # checkpoints: two always lie on a line
_ROUNDING = 1e-12  # share of the mean square below which a variance is none


@dataclass(frozen=True)
class Gram:
    """The centred Gram matrix of checkpoints.

    products: of the rows kept, each less the mean of all. kept: rows whose tokens are all finite.
    tokens: how many entered; those that are NaN or infinite at every checkpoint did not.
    """

    products: Float[np.ndarray, "kept kept"]
    kept: Bool[np.ndarray, " checkpoint"]
    tokens: int


def loss_space(groups: Mapping[str, xr.Dataset], components: int = 10) -> xr.Dataset:
    """Return the principal components of the per-token losses of one run or of several.

    groups: by name of the run, its group `token_loss` (or another whose `loss` is over step,
    sequence and position). Raises InputError for runs on different tokens (by the input's hash),
    and where fewer than 3 checkpoints are finite. See `component_space` for the result.
    """
    check_same_tokens(list(groups.values()))
    space = component_space({name: group["loss"] for name, group in groups.items()}, components)
    space["scores"].attrs["references"] = _OLSSON
    return space


def component_space(arrays: Mapping[str, xr.DataArray], components: int = 10) -> xr.Dataset:
    """Return the principal components over checkpoints of any arrays over step and features.

    With x[i, t] the value of feature t (a token's loss, a logit) at checkpoint i, of N features,

        x[i, t] - mean_i x[i, t] = sum_k scores[i, k] loadings[k, t],   mean_t loadings[k, t]^2 = 1

    so that a score is in the unit of x, a root mean square over features. Components are in order
    of their share of the variance; of each, the score of the first checkpoint is positive. Dims:
    checkpoint (coordinates `run` and `step`; runs in order, steps ascending) and component, from 1.
    Checkpoints with a feature that is not finite are left out: `attrs["left_out"]` names them.
    Features that are not finite at any checkpoint (padding) do not count.
    """
    arrays = {name: in_order(array) for name, array in arrays.items()}
    gram = gram_matrix(arrays)
    run = np.repeat(list(arrays), [array.sizes["step"] for array in arrays.values()])
    step = np.concatenate([array["step"].values for array in arrays.values()])
    units = next(iter(arrays.values())).attrs.get("units", "1")
    scores, variances = _decomposed(gram, components)
    run_kept, step_kept = run[gram.kept], step[gram.kept]
    out = zip(run[~gram.kept], step[~gram.kept], strict=True)
    distance, angle = _displacements(gram, run_kept)
    total = float(np.trace(gram.products)) / gram.tokens
    share = variances / total if total > 0 else np.full(len(variances), np.nan)
    return xr.Dataset(
        {
            "scores": variable(
                ("checkpoint", "component"), scores, units,
                "Coordinate of a checkpoint on a component, as a root mean square over tokens.",
            ),
            "share": variable(
                "component", share, "1", "Share of the variance over checkpoints."
            ),
            "distance": variable(
                "checkpoint", distance, units,
                "Root mean square change of all tokens since the run's previous checkpoint.",
            ),
            "turning_angle": variable(
                "checkpoint", angle, "degrees",
                "Angle between the changes to and from a checkpoint, over all tokens.",
            ),
        },
        {
            "run": ("checkpoint", run_kept),
            "step": ("checkpoint", step_kept),
            "component": np.arange(1, len(share) + 1),
        },
        {
            "tokens": gram.tokens,
            "left_out": [{"run": str(name), "step": int(at)} for name, at in out],
        },
    )  # fmt: skip


def loadings(arrays: Mapping[str, xr.DataArray], space: xr.Dataset) -> xr.DataArray:
    """Return the loadings of a space's components: a mean square of 1 over the tokens.

    arrays: those that the space was made from. Dims: component and those of the arrays beside the
    step. NaN where a token does not count. The losses are read once more.
    """
    arrays = {name: in_order(array) for name, array in arrays.items()}
    first = next(iter(arrays.values())).transpose("step", ...)
    rows = kept_rows(arrays, space)
    scores = space["scores"].values
    # Scores sum to 0 over checkpoints, so that what all checkpoints share drops out.
    weights = (scores / (scores**2).sum(axis=0)).T

    project = partial(_projected, weights=weights, rows=rows)
    flat = np.concatenate(list(over_tokens(project, list(arrays.values()))), axis=1)
    dims = [str(dim) for dim in first.dims[1:]]
    coordinates = {dim: first[dim] for dim in dims if dim in first.coords}
    return xr.DataArray(
        variable(
            ("component", *dims), flat.reshape(-1, *first.shape[1:]), "1",
            "Change of a token along a component, in units of the root mean square over tokens.",
        ),
        {"component": space["component"], **coordinates},
        name="loadings",
    )  # fmt: skip


def _projected(
    block: Block, *, weights: Float[np.ndarray, "component kept"], rows: Bool[np.ndarray, " row"]
) -> Float[np.ndarray, "component token"]:
    found = []
    for part in parts(block):
        found.append(weights @ part[rows].astype(np.float64))
    return np.concatenate(found, axis=1)


def kept_rows(arrays: Mapping[str, xr.DataArray], space: xr.Dataset) -> Bool[np.ndarray, " row"]:
    """Return which checkpoints of the arrays, in order of run and step, are in a space."""
    there = set(zip(space["run"].values.tolist(), space["step"].values.tolist(), strict=True))
    return np.array(
        [(name, step) in there for name, a in arrays.items() for step in a["step"].values.tolist()]
    )


def gram_matrix(arrays: Mapping[str, xr.DataArray]) -> Gram:
    """Return the Gram matrix of all checkpoints, runs in order, steps as they come.

    It is centred after the products are summed, which leaves an error of rounding of about 1e-16
    of the losses' mean square; variance below 1e-12 of it is taken for none. Raises InputError
    where fewer than 3 checkpoints are finite, or no token is.
    """
    count = sum(array.sizes["step"] for array in arrays.values())
    products, bad, tokens = np.zeros((count, count)), np.zeros(count, dtype=bool), 0
    for part, unfinished, counted in over_tokens(_products, list(arrays.values())):
        products += part
        bad |= unfinished
        tokens += counted
    kept = ~bad
    if kept.sum() < _FEWEST:
        raise InputError(
            f"{kept.sum()} of {count} checkpoints have finite losses: components need at least "
            f"{_FEWEST}"
        )
    if not tokens:
        raise InputError("no token has a finite loss at any checkpoint")
    products = products[np.ix_(kept, kept)]
    size = np.trace(products)
    products -= products.mean(axis=0)
    products -= products.mean(axis=1, keepdims=True)
    if np.trace(products) <= _ROUNDING * size:
        products = np.zeros_like(products)
    return Gram(products, kept, tokens)


def _products(
    block: Block,
) -> tuple[Float[np.ndarray, "row row"], Bool[np.ndarray, " row"], int]:
    """Return a block's products, which of its rows are not finite, and how many tokens count."""
    products, bad, tokens = np.zeros((len(block),) * 2), np.zeros(len(block), dtype=bool), 0
    room = None
    for part in parts(block):
        # One buffer for all parts: fresh memory for each would take a fifth of the time.
        room = np.empty(part.shape) if room is None else room
        values = room[:, : part.shape[1]]
        values[...] = part
        with np.errstate(invalid="ignore", over="ignore"):
            mine = values @ values.T
        counted = part.shape[1]
        # One number that is not finite shows on the diagonal; only then is it looked for.
        if not np.isfinite(np.trace(mine)):
            mine, unfinished, counted = _careful(part)
            bad |= unfinished
        products += mine
        tokens += counted
    return products, bad, tokens


def _careful(
    part: Block,
) -> tuple[Float[np.ndarray, "row row"], Bool[np.ndarray, " row"], int]:
    """Return the same for a part with numbers that are not finite: products of rows without."""
    finite = np.isfinite(part)
    counted = finite.any(axis=0)  # else padding
    bad = np.asarray(~finite[:, counted].all(axis=1))
    products = np.zeros((len(part),) * 2)
    if not bad.all():
        good = part[~bad][:, counted].astype(np.float64)
        products[np.ix_(~bad, ~bad)] = good @ good.T
    return products, bad, int(counted.sum())


def _decomposed(
    gram: Gram, components: int
) -> tuple[Float[np.ndarray, "kept component"], Float[np.ndarray, " component"]]:
    """Return scores and variances per token, the largest first."""
    variances, vectors = np.linalg.eigh(gram.products / gram.tokens)
    # Centred, n checkpoints have n - 1 components at most.
    most = min(components, len(variances) - 1)
    variances, vectors = variances[::-1][:most].clip(min=0), vectors[:, ::-1][:, :most]
    vectors = vectors * np.where(vectors[0] < 0, -1, 1)
    return vectors * np.sqrt(variances), variances


def _displacements(
    gram: Gram, run: np.ndarray
) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    """Return each checkpoint's distance from the one before, and the turning angle there."""
    g = gram.products / gram.tokens
    by_row = np.diff(g, axis=0)
    moves = np.diff(by_row, axis=1)  # products of the displacements
    squared = np.diag(moves).clip(min=0)
    within = run[1:] == run[:-1]
    distance = np.full(len(g), np.nan)
    distance[1:][within] = np.sqrt(squared)[within]
    angle = np.full(len(g), np.nan)
    both = within[1:] & within[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.diag(moves, 1) / np.sqrt(squared[1:] * squared[:-1])
    angle[1:-1][both] = np.degrees(np.arccos(cosine.clip(-1, 1)))[both]
    return distance, angle
