"""One model in memory, and checkpoint after checkpoint of weights put into it.

The architecture is built once, from a local config.json; a checkpoint is a dictionary of tensors
whose names and shapes must be exactly the architecture's.
"""

import threading
from collections.abc import Mapping
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
from pipeline.models.architecture import build, torch_dtype
from pipeline.models.facts import facts_of_module
from pipeline.models.fit import (
    check_fit,
    complete_tied,
    floating_names,
    ignored,
    refuse_doubles,
    refuse_unless_fit,
    renames,
    tie,
    tied_groups,
)
from pipeline.models.weights import ModelWeights, Weights

# `no_init_weights` replaces functions of torch for as long as it lasts.
_BUILDING = threading.Lock()


class Resident:
    """A model that stays in memory while checkpoints pass through it.

    architecture: a config, or a local folder with a config.json. dtype: a name like "float32";
    weights of another dtype are converted to it. `module` is in eval mode, its parameters
    undefined until the first `swap`.
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
        """The current checkpoint's parameters by name, tied ones once."""
        return ModelWeights(self.module, self.facts)

    def used(
        self, weights: Weights, source: str = "this checkpoint", config: Mapping[str, Any] = {}
    ) -> dict[str, Tensor]:
        """The tensors that floating-point parameters are read from, by their names in the file.

        Raises QuantisedError where they, or what config.json says, are not those of a model as it
        was trained; see `floats.refuse_quantised`.
        """
        floats = floating_names(self.module, self._renames(frozenset(weights)), weights)
        refuse_quantised({n: t.dtype for n, t in weights.items()}, floats, source, config)
        return {name: weights[name] for name in weights if name in floats}

    @torch.no_grad()
    def swap(self, weights: Weights, source: str = "this checkpoint") -> None:
        """Put a checkpoint's tensors in; takes them over where device and dtype already fit.

        Infinite weights, and those that the resident's dtype cannot hold, become NaN: what depends
        on them is NaN then, in every measure.

        Raises CheckpointError where names or shapes are not those of the architecture; the former
        weights are kept then, but for models whose tensors must be merged (separate experts).
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
        """Put NaN in place of infinite weights, which a softmax or an activation could hide.

        exp(-inf) is 0 and tanh(inf) is 1, while NaN reaches every number that depends on it.
        """
        for parameter in self.module.parameters():
            if parameter.is_floating_point() and not parameter.sum().isfinite():
                nan = torch.nan
                parameter.data = parameter.nan_to_num(nan=nan, posinf=nan, neginf=nan)

    @torch.no_grad()
    def module_in(self, dtype: str = "") -> PreTrainedModel:
        """The model in another dtype, cast from the current weights; "" is the resident's own.

        A second copy is kept from the first such call on: meant for models that are small.
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
        # Moved to the dtype while it is built, not after: buffers such as the rotary frequencies
        # stay in float32 then, as they do in the library's own loading.
        with _BUILDING, no_init_weights():
            module = build(architecture, dtype, self._trusted)
        module.tie_weights()
        if dtype == torch.float64 and module._can_set_experts_implementation():
            module.set_experts_implementation("eager")  # the grouped product has no float64
        return module.to(self.device)  # pyright: ignore[reportArgumentType]

    def _renames(self, keys: frozenset[str]) -> dict[str, str] | None:
        """From names in the file to names in the module; None where tensors must be merged too."""
        if keys not in self._names:
            self._names[keys] = renames(self.module, keys)
        return self._names[keys]

    def _assign(self, state: dict[str, Tensor], source: str) -> None:
        own = self.module.state_dict()
        groups = tied_groups(self.module)
        for group in groups:
            complete_tied(state, group, source)
        buffers = {name for name, _ in self.module.named_buffers()}
        check_fit(own, state, optional=buffers, source=source)
        converted = {
            name: tensor.to(self.device, own[name].dtype) for name, tensor in state.items()
        }
        self.module.load_state_dict(converted, strict=False, assign=True)
        for group in groups:
            tie(self.module, group)
        self.module.requires_grad_(False)

    def _convert(self, weights: Weights, source: str) -> None:
        """Load a checkpoint whose tensors must be merged or split (such as separate experts)."""
        load = LoadStateDictConfig(
            weight_mapping=cast(list, get_model_conversion_mapping(self.module)),
            dtype=self.dtype,
            device_map={"": self.device},
        )
        info, _ = convert_and_load_state_dict_in_model(self.module, dict(weights), load, None)
        missing = set(info.missing_keys)
        self.module.tie_weights(missing_keys=missing, recompute_mapping=False)
        missing -= {name for name, _ in self.module.named_buffers()}
        unexpected = {key for key in info.unexpected_keys if not ignored(self.module, key)}
        shapes = {f"{name}: {found} for {own}" for name, found, own in info.mismatched_keys}
        refuse_unless_fit(missing, unexpected, shapes | set(info.conversion_errors), source)
        self.module.requires_grad_(False)
