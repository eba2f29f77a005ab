"""One model in memory, and checkpoint after checkpoint of weights put into it.

The architecture is built once, from a local config.json, with the library's own code only; a
checkpoint is a dictionary of tensors whose names and shapes must be exactly the architecture's.
"""

import pickle
import threading
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.initialization import no_init_weights
from transformers.modeling_utils import LoadStateDictConfig

import pipeline.models.organism  # noqa: F401 (transformers then knows organisms by their config)
from pipeline.checkpoints import transformerlens
from pipeline.checkpoints.files import weight_files
from pipeline.checkpoints.floats import refuse_quantised, refuse_unreadable
from pipeline.checkpoints.placeholders import placeholder_in
from pipeline.errors import CheckpointError, InputError, first_line
from pipeline.models.assumptions import Unmet
from pipeline.models.fit import (
    check_fit,
    complete_tied,
    ignored,
    refuse_doubles,
    refuse_unless_fit,
    renames,
    tie,
    tied_groups,
    without_wrappers,
)
from pipeline.models.special_ids import named_special_ids

Weights = Mapping[str, Tensor]

# What the library raises where the values of a config are not what it expects.
_UNUSABLE = (
    ValueError, ImportError, KeyError, AttributeError, TypeError, IndexError, ArithmeticError,
    AssertionError, NotImplementedError, StrictDataclassError,
)  # fmt: skip

# A damaged config may name any number; to build so many would take all time and memory.
_MOST_LAYERS = 10_000

# `no_init_weights` replaces functions of torch for as long as it lasts.
_BUILDING = threading.Lock()


@dataclass(frozen=True)
class ModelFacts:
    """What an architecture says of itself before any weights are read.

    context: the longest sequence it can read, None where any length is allowed. parameters: the
    names of its weight tensors, tied ones once. architecture: the name of its class. d_mlp: neurons
    of each MLP, None where the config does not say. unmet: which of the `ASSUMPTIONS` it was found
    not to meet, each with the reason; empty where none was, or before any was checked.
    """

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_model: int
    vocabulary: int
    context: int | None
    parameters: tuple[str, ...]
    architecture: str
    bos_token_id: int | None = None
    special_token_ids: tuple[int, ...] = ()
    d_mlp: int | None = None
    unmet: Unmet = field(default_factory=dict)


class ModelWeights(dict[str, Tensor]):
    """A model's parameters by name, tied ones once, with what says what the names mean.

    config: the architecture's own description. facts: its sizes.
    """

    def __init__(self, module: PreTrainedModel, facts: ModelFacts):
        super().__init__(module.named_parameters())
        self.config = module.config.get_text_config()
        self.facts = facts


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a local checkpoint, by the names in its files, in memory of their own.

    Nothing stays mapped, so the files may change or go afterwards. Any thread may call this.
    Raises CheckpointError, naming the file, where one is absent, truncated or not what it says.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights.update(_read_file(file))
    names = without_wrappers(weights, str(folder))
    return {names[name]: tensor for name, tensor in weights.items()}


def _read_file(file: Path) -> dict[str, Tensor]:
    if found := placeholder_in(file):
        raise CheckpointError(f"{file}: {found}")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file, backend="pread")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{file}: is truncated or no weight file ({first_line(error)}): save or copy it again"
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: cannot be read as plain tensors ({first_line(error)}); "
            "files that would run code are refused: convert it to safetensors"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(
            f"{file}: expected a dictionary of tensors by name: save the weights alone"
        )
    refuse_unreadable(content, str(file))
    if not transformerlens.is_transformerlens(content):
        return content
    try:
        return transformerlens.renamed(content)
    except (InputError, KeyError) as error:
        raise CheckpointError(
            f"{file}: is no whole state dict of TransformerLens: {error}"
        ) from error


def read_architecture(folder: str | Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config.json of a checkpoint's folder; raises InputError where it cannot be used.

    trust_remote_code: the folder's own Python files may be run, where its config names them.
    """
    try:
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, RecursionError, *_UNUSABLE) as error:
        if "trust_remote_code" in str(error):
            raise _distrusted(Path(folder) / "config.json") from error
        raise InputError(
            f"{Path(folder) / 'config.json'}: describes no model that can be built here "
            f"({first_line(error)}): give a checkpoint in the Hugging Face layout"
        ) from error


def _distrusted(what: object) -> InputError:
    return InputError(
        f"{what}: this model is built by code that comes with its checkpoints, which is not run "
        "unasked: set `trust_remote_code: true` in the analysis if you trust its authors"
    )


def facts_of(
    architecture: str | Path | PreTrainedConfig, trust_remote_code: bool = False
) -> ModelFacts:
    """The facts of a config, or of the config.json in a checkpoint's folder; reads no weights.

    Of a folder, the special ids are those that its own files name, not the library's defaults.
    """
    facts = _facts(without_memory(architecture, trust_remote_code))
    if isinstance(architecture, PreTrainedConfig):
        return facts
    bos, special = named_special_ids(architecture, facts.vocabulary)
    return replace(facts, bos_token_id=bos, special_token_ids=special)


def without_memory(
    architecture: str | Path | PreTrainedConfig, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Return an architecture's module, whose tensors have shapes but no numbers."""
    with torch.device("meta"):
        return _build(architecture, trust_remote_code=trust_remote_code)


def check_shapes(
    architecture: str | Path | PreTrainedConfig,
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
    dtypes: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Raise CheckpointError where tensors of these names and shapes are not the architecture's.

    The rule of `Resident.swap`, without weights or memory for them; nothing is said of the shapes
    of tensors that must be merged first. dtypes: as a safetensors header spells them; config: what
    the config.json says; see `floats.refuse_quantised`.
    """
    plain = without_wrappers(shapes, source)
    shapes = {plain[name]: shape for name, shape in shapes.items()}
    with torch.device("meta"):
        module = _build(architecture)
        tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    module.tie_weights()
    names = renames(module, frozenset(shapes))
    if dtypes is not None:
        refuse_quantised(dtypes, _floats(module, names, shapes), source, config)
    if names is None:
        return
    state = {names[key]: tensors[key] for key in tensors if key in names}
    for group in tied_groups(module):
        if found := [name for name in group if name in state]:
            state.update(dict.fromkeys(group, state[found[0]]))
    buffers = {name for name, _ in module.named_buffers()}
    check_fit(module.state_dict(), state, optional=buffers, source=source)


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
        self.facts = _facts(self.module)
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
        floats = _floats(self.module, self._renames(frozenset(weights)), weights)
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
            module = _build(architecture, dtype, self._trusted)
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


def _floats(
    module: PreTrainedModel, names: Mapping[str, str] | None, keys: Iterable[str]
) -> set[str]:
    """Of a file's tensors those that floating-point parameters of the module are read from.

    names: from the file to the module; None where tensors are merged first: then all that count.
    """
    if names is None:
        return {key for key in keys if not ignored(module, key)}
    own = module.state_dict()
    return {key for key, name in names.items() if name in own and own[name].is_floating_point()}


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that a name like "float32" stands for."""
    return cast(torch.dtype, getattr(torch, name))


def _build(
    architecture: str | Path | PreTrainedConfig,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    config = (
        deepcopy(architecture)
        if isinstance(architecture, PreTrainedConfig)
        else read_architecture(architecture, trust_remote_code)
    )
    config.use_cache = False
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise InputError(
            f"{config.model_type}: its config says num_hidden_layers = {layers}, expected at most "
            f"{_MOST_LAYERS}: restore it"
        )
    try:
        module = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation="eager",
            trust_remote_code=trust_remote_code,
        )
    except (*_UNUSABLE, RuntimeError) as error:
        if "DefaultCPUAllocator" in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        if "trust_remote_code" in str(error):
            raise _distrusted(config.model_type) from error
        raise InputError(
            f"{config.model_type}: is no causal language model that can be built here "
            f"({first_line(error)}): give checkpoints of a decoder that transformers knows"
        ) from error
    return module.eval().requires_grad_(False)


def _facts(module: PreTrainedModel) -> ModelFacts:
    config = module.config.get_text_config()
    n_heads = config.num_attention_heads
    unembedding = cast(nn.Linear, module.get_output_embeddings())
    specials = [getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")]
    flat = [i for s in specials if s is not None for i in (s if isinstance(s, list) else [s])]
    bos = specials[0]
    return ModelFacts(
        n_layers=config.num_hidden_layers,
        n_heads=n_heads,
        n_key_value_heads=_key_value_heads(config),
        d_head=getattr(config, "head_dim", None) or config.hidden_size // n_heads,
        d_model=config.hidden_size,
        vocabulary=unembedding.weight.shape[0],
        context=_context(config),
        parameters=tuple(name for name, _ in module.named_parameters()),
        architecture=type(module).__name__,
        bos_token_id=bos if isinstance(bos, int) and bos < unembedding.weight.shape[0] else None,
        special_token_ids=tuple(sorted({i for i in flat if i < unembedding.weight.shape[0]})),
        d_mlp=getattr(config, "intermediate_size", None),
    )


def _key_value_heads(config: PreTrainedConfig) -> int:
    if getattr(config, "multi_query", False) and not getattr(
        config, "new_decoder_architecture", False
    ):
        return 1
    for name in ("num_key_value_heads", "num_kv_heads"):
        if heads := getattr(config, name, None):
            return heads
    return config.num_attention_heads


def _context(config: PreTrainedConfig) -> int | None:
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return None  # positions are biases on attention scores: any length has them
    return getattr(config, "max_position_embeddings", None)
