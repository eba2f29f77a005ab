"""Resident: one model in memory whose weights are replaced by those of each checkpoint.

The architecture is built once, from a local config.json; a checkpoint is a dictionary of tensors
whose names and shapes must be exactly the architecture's.
"""

import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.initialization import no_init_weights
from transformers.modeling_utils import LoadStateDictConfig

from pipeline.checkpoints.floats import refuse_quantised
from pipeline.checkpoints.wrappers import refuse_doubles
from pipeline.models.architecture import build, torch_dtype
from pipeline.models.facts import facts_of_module
from pipeline.models.fit import (
    check_fit,
    complete_tied,
    floating_names,
    ignored,
    refuse_unless_fit,
    renames,
    sources,
    tie,
    tied_groups,
)
from pipeline.models.weights import ModelWeights, Weights

# `no_init_weights` replaces functions of torch.nn.init in the whole process while it is active. Of
# two threads that build at once, the second would take the first's replacements for the originals
# and restore those at its end.
_BUILDING = threading.Lock()


_MOST_BYTES, _BESIDE = 32, 10**8  # for each number of the model, and beside them


class Resident:
    """A model that stays in memory and is given the weights of one checkpoint after another.

    architecture: a config, or a local folder with a config.json. dtype: a name such as "float32";
    weights of another dtype are converted to it. `module` is in eval mode; its parameters are
    uninitialised until the first `swap`.
    """

    def __init__(
        self,
        architecture: str | Path | PreTrainedConfig,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        trust_remote_code: bool = False,
    ):
        self.device = torch.device(device)
        self.dtype = torch_dtype(dtype)
        self._trusted = trust_remote_code
        self.module = self._uninitialised(architecture, self.dtype)
        self.facts = facts_of_module(self.module)
        self._names: dict[frozenset[str], dict[str, str] | None] = {}
        self._others: dict[torch.dtype, PreTrainedModel] = {}
        self._stale: set[torch.dtype] = set()

    @property
    def weights(self) -> "ModelWeights":
        """Parameters of the current checkpoint by name, tied ones once."""
        return ModelWeights(self.module, self.facts)

    def used(
        self, weights: Weights, source: str = "this checkpoint", config: Mapping[str, Any] = {}
    ) -> dict[str, Tensor]:
        """Return the tensors that floating-point parameters are read from, by name in the file.

        Raises QuantisedError if the tensors or the config are those of a quantised model; see
        `floats.refuse_quantised`.
        """
        floats = floating_names(self.module, self._renames(frozenset(weights)), weights)
        refuse_quantised({n: t.dtype for n, t in weights.items()}, floats, source, config)
        return {name: weights[name] for name in weights if name in floats}

    def check(
        self,
        described: Weights,
        source: str = "this checkpoint",
        config: Mapping[str, Any] = {},
    ) -> None:
        """Raise what `used` and `swap` raise for tensors of such names, dtypes and shapes.

        described: all tensors, on the meta device. Those that must be merged are not compared.
        """
        self.used(described, source, config)
        if (names := self._renames(frozenset(described))) is not None:
            refuse_doubles(names, source)
            self._fitting({names[key]: described[key] for key in described if key in names}, source)

    def sources(self, keys: Iterable[str], parameters: Collection[str]) -> set[str] | None:
        """Return those names in a checkpoint's files that some parameters are read from.

        None if they cannot be told apart, since tensors must be merged or split.
        """
        names = self._renames(frozenset(keys))
        return None if names is None else sources(self.module, names, parameters)

    @property
    def most_bytes(self) -> int:
        """The most bytes that a checkpoint of the model may have; larger ones are not read."""
        own = sum(tensor.numel() for tensor in self.module.state_dict().values())
        # Buffers that are computed anew, such as causal masks, may be stored beside the weights.
        masks = (self.facts.context or 0) ** 2 * self.facts.n_layers
        return _MOST_BYTES * (own + masks) + _BESIDE

    def dtypes(self, weights: Weights) -> dict[str, torch.dtype]:
        """Return the dtypes in which `swap` puts a checkpoint's tensors into the model, by name.

        Of those that are in memory and need not be merged: `Transfer` may copy them ahead.
        """
        names, own = self._renames(frozenset(weights)) or {}, self.module.state_dict()
        return {
            key: own[name].dtype
            for key, name in names.items()
            if name in own and weights[key].device.type == "cpu"
        }

    @torch.no_grad()
    def swap(self, weights: Weights, source: str = "this checkpoint") -> None:
        """Replace the weights by a checkpoint's; tensors are not copied if device and dtype match.

        Infinite weights, and those that overflow in the resident's dtype, become NaN, so that every
        number that depends on them is NaN in every measure. Tensors on the meta device, which were
        not read, leave parameters without data: none keeps a former checkpoint's.

        Raises CheckpointError if names or shapes are not those of the architecture. The former
        weights are then kept, except in models whose tensors must be merged (separate experts).
        """
        self.used(weights, source)
        names = self._renames(frozenset(weights))
        if names is None:
            self._convert(weights, source)
        else:
            refuse_doubles(names, source)
            self._assign({names[key]: weights[key] for key in weights if key in names}, source)
        self._blank_infinities()
        self._stale = set(self._others)

    def _blank_infinities(self) -> None:
        """Replace infinite weights by NaN.

        A softmax or an activation could hide them: exp(-inf) is 0 and tanh(inf) is 1, whereas NaN
        propagates to every number that depends on it.
        """
        read = [p for p in self.module.parameters() if p.is_floating_point() and not p.is_meta]
        if not read:
            return
        # Sums instead of masks as large as the weights. A finite tensor whose sum overflows is only
        # treated needlessly: nan_to_num leaves its numbers as they are. All results together,
        # because reading one from a GPU waits for it.
        finite = torch.stack([parameter.sum().isfinite() for parameter in read]).tolist()
        for parameter, is_finite in zip(read, finite, strict=True):
            if not is_finite:
                nan = torch.nan
                parameter.data = parameter.nan_to_num(nan=nan, posinf=nan, neginf=nan)

    @torch.no_grad()
    def module_in(self, dtype: str = "") -> PreTrainedModel:
        """Return the model in another dtype, cast from the current weights; "" is its own dtype.

        The second copy is kept from the first such call on, which suits small models only.
        """
        wanted = torch_dtype(dtype) if dtype else self.dtype
        if wanted == self.dtype:
            return self.module
        if wanted not in self._others:
            self._others[wanted] = self._uninitialised(self.module.config, wanted)
            self._stale.add(wanted)
        if wanted in self._stale:
            own = self.module.state_dict()
            for name, tensor in self._others[wanted].state_dict().items():
                tensor.copy_(own[name])
            self._stale.remove(wanted)
        return self._others[wanted]

    def _uninitialised(
        self, architecture: str | Path | PreTrainedConfig, dtype: torch.dtype
    ) -> PreTrainedModel:
        # The dtype is set while the module is built, not by a cast afterwards: buffers such as the
        # rotary frequencies then stay in float32, as in transformers' own from_pretrained.
        with _BUILDING, no_init_weights():
            module = build(architecture, dtype, self._trusted)
        module.tie_weights()
        # torch's grouped matrix product has no float64. The private test guards against models
        # without experts, for which there is no public one.
        if dtype == torch.float64 and module._can_set_experts_implementation():
            module.set_experts_implementation("eager")
        return module.to(self.device)  # pyright: ignore[reportArgumentType]

    def _renames(self, keys: frozenset[str]) -> dict[str, str] | None:
        """Return the map of names in a file to those in the module; None if tensors are merged."""
        if keys not in self._names:
            self._names[keys] = renames(self.module, keys)
        return self._names[keys]

    def _fitting(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Return the module's own tensors, after checking that `state`, completed, fits them."""
        own = self.module.state_dict()
        for group in tied_groups(self.module):
            complete_tied(state, group, source)
        buffers = {name for name, _ in self.module.named_buffers()}
        check_fit(own, state, optional=buffers, source=source)
        return own

    def _assign(self, state: dict[str, Tensor], source: str) -> None:
        own = self._fitting(state, source)
        groups = tied_groups(self.module)
        converted = {
            # Converted on the device, which is faster, and gets fewer bytes of half precision.
            name: tensor.to("meta" if tensor.is_meta else self.device).to(own[name].dtype)
            for name, tensor in state.items()
        }
        # assign=True takes the tensors over instead of copying into the old ones, and by that
        # breaks ties: each name of a tied group would then have a parameter of its own.
        self.module.load_state_dict(converted, strict=False, assign=True)
        for group in groups:
            tie(self.module, group)
        self.module.requires_grad_(False)

    def _convert(self, weights: Weights, source: str) -> None:
        """Load a checkpoint whose tensors must be merged or split (such as separate experts)."""
        # The private functions of from_pretrained: the public one would read the files again and
        # build another module for every checkpoint.
        load = LoadStateDictConfig(
            weight_mapping=cast(list, get_model_conversion_mapping(self.module)),
            dtype=self.dtype,
            device_map={"": self.device},
        )
        info, _ = convert_and_load_state_dict_in_model(self.module, dict(weights), load, None)
        missing = set(info.missing_keys)
        # Removes from `missing` the names that tying supplies.
        self.module.tie_weights(missing_keys=missing, recompute_mapping=False)
        missing -= {name for name, _ in self.module.named_buffers()}
        unexpected = {key for key in info.unexpected_keys if not ignored(self.module, key)}
        shapes = {f"{name}: {found} for {own}" for name, found, own in info.mismatched_keys}
        refuse_unless_fit(missing, unexpected, shapes | set(info.conversion_errors), source)
        self.module.requires_grad_(False)
