"""One YAML file describes one analysis: checkpoints, inputs, measures, workers and the store."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.config.faults import Strict, faults_of, shown, validated
from pipeline.config.inputs import ArrayInput, InputSpec, NaturalMatchesInput, TextInput
from pipeline.config.places import Place, require_place
from pipeline.config.run_layout import RunLayout
from pipeline.config.suites import suite_of
from pipeline.config.trackers import LogTo
from pipeline.config.yaml_files import read_yaml
from pipeline.errors import InputError, suggestion

PRESETS = Path(__file__).parents[1] / "presets"
_INPUT_NAME = re.compile(r"\w[\w .+-]{0,99}")


class Workers(Strict):
    """The number of workers that compute in parallel, and the resources of each.

    count: number of workers. max_count: the workers that a Ray cluster is asked for instead; those
    for which there is room compute, and the others begin as nodes join. cpus, gpus: how many of
    each Ray reserves for one worker; a part of a GPU is a number below 1. device: where the model
    computes. dtype: of weights and activations. dashboard: serve Ray's dashboard while Ray runs on
    this machine; a cluster has its own.
    threads: torch threads of each worker, which compute as many batches at a time; two runs are
    equal bit for bit only if they use the same number. memory: bytes that the activations of one
    forward pass may take in all threads; batch sizes follow from it. timeout: seconds that one
    checkpoint may take before its worker is considered hung and is replaced.
    """

    count: int = Field(default=2, ge=1)
    max_count: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1, ge=0)
    gpus: float = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    memory: int = Field(default=2 * 2**30, ge=2**20)
    timeout: float | None = Field(default=None, gt=0)
    dashboard: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "Workers":
        if self.max_count is not None and self.max_count < self.count:
            raise ValueError(
                f"max_count is {self.max_count}, expected at least count, {self.count}"
            )
        return self

    @property
    def most(self) -> int:
        """The number of workers that a cluster is asked for."""
        return self.max_count or self.count


class Cache(Strict):
    """A limit on each worker's disk use for fetched checkpoints; at the limit, fetching waits.

    checkpoints: number on disk at one time. bytes: total size of their weights; None: no limit.
    """

    checkpoints: int = Field(default=2, ge=1)
    bytes: int | None = Field(default=None, ge=1)


class Selection(Strict):
    """A subset of checkpoints: given steps, every n-th, or n evenly spaced in log(1 + step).

    steps: the steps to take. every: take every n-th checkpoint. log_spaced: take so many.
    The last two always include the first and the last checkpoint.
    """

    steps: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    every: int | None = Field(default=None, ge=1)
    log_spaced: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Selection":
        if sum(given is not None for given in (self.steps, self.every, self.log_spaced)) != 1:
            raise ValueError("give one of steps, every and log_spaced")
        return self


class GroupOptions(Strict):
    """Options that every measure accepts beside its own parameters.

    select: a subset of the analysis's checkpoints, for measures that need many forward passes.
    float16: variables to store as float16, in half of the space; the rounding error is at most
    0.002 for numbers below 8, 0.004 below 16, and 1/2000 of larger ones. The largest error is
    stored with every row.
    """

    select: Selection | None = None
    float16: tuple[str, ...] = ()


class OwnTensor(Strict):
    """The place of a tensor of one's own model, and its axes.

    name: TransformerLens' name, with `{}` for the number of a block. axes: in the order of the
    file, those that are joined in parentheses, as in `(n_heads d_head) d_model`.
    """

    name: str
    axes: str | None = None


_OwnName = str | OwnTensor


def _is_place(value: Any) -> bool:
    """Return whether a value can be the place of a tensor; None is that of one without a use."""
    if not isinstance(value, dict):
        return value is None or isinstance(value, str | OwnTensor)
    is_named = isinstance(value.get("name"), str) and value.keys() <= {"name", "axes"}
    return is_named and isinstance(value.get("axes"), str | None)


class SavedModel(Strict):
    """Fields of a model's config that its `.pth` and `.pt` files lack, named as in TransformerLens.

    Names, meanings and defaults are those of HookedTransformerConfig, except that `act_fn` and
    `normalization_type` (null: no norm) have no default and must be given if no file has them. A
    value that contradicts a file is an error. ignore: fields of the files' own config that are
    known not to affect the forward pass.

    names: of the tensors of one's own model: "nanogpt", "gpt-lecture", "transformerlens", or a
    dictionary from each name to TransformerLens' name, with `{}` for the number of a block.
    matrices: how one's own model stores its matrices: "out_in" as nn.Linear does, or "in_out" for
    x @ W. norm_first: whether norms precede each layer of one's own model. n_heads: the number of
    heads. n_ctx: the longest input of a model with rotary positions.
    """

    names: str | dict[str, _OwnName | tuple[_OwnName, ...] | None] | None = None
    matrices: Literal["out_in", "in_out"] | None = None
    norm_first: bool = True
    n_heads: int | None = Field(default=None, ge=1)
    n_ctx: int | None = Field(default=None, ge=1)

    act_fn: str | None = None
    normalization_type: str | None = None
    positional_embedding_type: str = "standard"
    eps: float = 1e-5
    use_attn_scale: bool = True
    attn_scale: float = -1.0
    scale_attn_by_inverse_layer_idx: bool = False
    attention_dir: str = "causal"
    parallel_attn_mlp: bool = False
    use_local_attn: bool = False
    attn_types: tuple[str, ...] | None = None
    window_size: int | None = None
    gated_mlp: bool = False
    final_rms: bool = False
    post_embedding_ln: bool = False
    use_normalization_before_and_after: bool = False
    attn_scores_soft_cap: float = -1.0
    output_logits_soft_cap: float = -1.0
    n_key_value_heads: int | None = None
    num_experts: int | None = None
    rotary_dim: int | None = None
    rotary_base: float = 10_000.0
    rotary_adjacent_pairs: bool = False
    load_in_4bit: bool = False
    ignore: tuple[str, ...] = ()

    @field_validator("names", mode="before")
    @classmethod
    def _names_have_places(cls, names: Any) -> Any:
        """Refuse what is no table or dictionary of names, in one sentence for all its types."""
        if names is None or isinstance(names, str):
            return names
        if not isinstance(names, dict) or not names:
            raise ValueError(f"{shown(names)} is neither a table's name nor a dictionary of names")
        for name, given in names.items():
            places = given if isinstance(given, list | tuple) else [given]
            is_nothing = not places or (places is given and None in places)
            if is_nothing or not all(_is_place(one) for one in places):
                raise ValueError(
                    f"{str(name)[:100]!r} has {shown(given)}, expected TransformerLens' name of "
                    "it, {name: ..., axes: ...}, a list of these, or null if it is not used"
                )
        return names

    def given(self) -> dict[str, Any]:
        """Return the fields that were given, without defaults."""
        return self.model_dump(mode="json", exclude_unset=True)


class Analysis(RunLayout):
    """An analysis: checkpoints, inputs, measures, and the store that results are written to.

    checkpoints: a folder of checkpoints, `s3://bucket/prefix`, `hf://owner/name`, or a CSV or JSON
    file that lists addresses by step. store: the folder or `s3://` address that results are written
    to. names, config, follow_links: how the checkpoints are named and where their parts lie, if it
    is not recognised, see `RunLayout`. select: a subset of the checkpoints. workers: how many
    compute in parallel, and on what. audit: how checkpoints are checked before anything is
    computed, so that faulty ones are excluded: by their metadata, by their bytes too ("deep": reads
    all of them once), or not at all ("off"). inputs: by name; a measure reads its default input
    unless its key is `<measure>.<input>`. measures: by group name, or as `<path>.py:<Class>` for
    one of the user's own (see `pipeline.measures.own`), each with its parameters and
    `GroupOptions`. tokens_per_step: for checkpoints that do not record how many tokens they have
    seen. model: config fields that `.pth` files lack, see `SavedModel`. cache: limit on the disk
    use of a remote run. trust_remote_code: allow running code that comes with a checkpoint to build
    its model. log_to: experiment trackers that receive scalars and findings, see `LogTo`.
    """

    checkpoints: Place
    store: Place
    select: Selection | None = None
    audit: Literal["off", "metadata", "deep"] = "metadata"
    inputs: dict[str, InputSpec] = Field(default_factory=dict)
    measures: dict[str, dict[str, Any]] = Field(min_length=1)
    workers: Workers = Workers()
    tokens_per_step: int | None = Field(default=None, ge=1)
    model: dict[str, Any] = Field(default_factory=dict)
    cache: Cache = Cache()
    trust_remote_code: bool = False
    log_to: LogTo = LogTo()

    @field_validator("model")
    @classmethod
    def _fields_of_a_saved_model(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Validate `model`, and keep a dictionary: it tells given fields from defaults later on."""
        try:
            return SavedModel.model_validate(data).given()
        except ValidationError as error:
            raise ValueError("; ".join(faults_of(SavedModel, error))) from None

    @field_validator("audit", mode="before")
    @classmethod
    def _off_is_a_word(cls, given: Any) -> Any:
        """Read `audit: off` as the string "off"."""
        # A file says `off`, `no` or `false`; a parameter of a flow, written as JSON, false.
        return "off" if given is False or given == "no" else given

    @field_validator("inputs")
    @classmethod
    def _names_of_inputs(cls, inputs: dict[str, InputSpec]) -> dict[str, InputSpec]:
        """Refuse a name that could not be part of the name of a group, which is a folder."""
        for name in inputs:
            if not _INPUT_NAME.fullmatch(name):
                raise ValueError(
                    f"the name {name[:100]!r} of an input is no word of letters, digits, '_', '-' "
                    "and '.': give it another name"
                )
        return inputs

    @field_validator("measures", mode="before")
    @classmethod
    def _measures_without_parameters(cls, given: Any) -> Any:
        """Give default parameters to measures in a list, and to a key without a value."""
        if isinstance(given, list | tuple):
            if wrong := [one for one in given if not isinstance(one, str)]:
                raise ValueError(f"expected names of measures, found {shown(wrong[0])}")
            if twice := [one for at, one in enumerate(given) if one in given[:at]]:
                raise ValueError(f"{twice[0][:80]!r} is given twice: give it once")
            return {name: {} for name in given}
        if isinstance(given, dict):
            return {name: {} if of is None else of for name, of in given.items()}
        return given

    @field_validator("measures")
    @classmethod
    def _files_of_measures(cls, measures: dict[str, Any]) -> dict[str, Any]:
        for key in measures:
            require_place(key)
        return measures


def load_analysis(source: str | Path) -> Analysis:
    """Read an analysis from a YAML file, or a packaged preset by its name.

    Relative paths in a file are relative to that file; in a preset, to the working directory.
    """
    path = Path(source)
    is_preset = str(source) in _presets() or str(source) in suite_of()
    if path.is_file() or (path.exists() and not is_preset):
        return paths_from(validated(Analysis, read_yaml(path), where=str(path)), path.parent)
    return load_preset(str(source), "there is neither such a file nor such a preset")


def load_preset(name: str, otherwise: str = "there is no such preset") -> Analysis:
    """Return a packaged analysis; its relative paths are relative to the working directory.

    Raises InputError for an unknown name, with `otherwise` as the message's first clause, and for
    a member of a suite that cannot be analysed.
    """
    known = _presets()
    if name not in known and name not in suite_of():
        raise unknown_preset(name, otherwise)
    content = read_yaml(known[name]) if name in known else suite_of()[name].content(name)
    return validated(Analysis, content, where=f"preset {name}")


def unknown_preset(name: str, otherwise: str) -> InputError:
    """Return the error for a name that is no preset's; `otherwise` is its first clause."""
    advice = suggestion(name, (*_presets(), *suite_of()))
    if advice.startswith("known are"):  # more than anyone reads
        advice = "`ontogeny presets` lists those that are known"
    return InputError(f"{name}: {otherwise}; {advice}")


def own_presets() -> list[str]:
    """Return the names of the presets for runs of `ontogeny train`."""
    return sorted(_presets())


def _presets() -> dict[str, Path]:
    return {found.stem: found for found in PRESETS.glob("*.yaml")}


def saved_model(fields: Mapping[str, Any] | None, where: str = "model") -> dict[str, Any]:
    """Return the given fields of a `SavedModel`. Raises InputError if one is not valid."""
    return validated(SavedModel, dict(fields), where).given() if fields else {}


def paths_from(analysis: Analysis, folder: Path) -> Analysis:
    """Return the analysis with its relative paths resolved against a folder."""

    # Only paths, since a URI is absolute. The analysis must not depend on the working directory,
    # which differs between the workers.
    def absolute(uri: str) -> str:
        return uri if "://" in uri else os.path.realpath(folder / uri)

    inputs = {
        name: spec.model_copy(update={"path": absolute(spec.path)})
        if isinstance(spec, TextInput | ArrayInput | NaturalMatchesInput) and spec.path
        else spec
        for name, spec in analysis.inputs.items()
    }
    return analysis.model_copy(
        update={
            "checkpoints": absolute(analysis.checkpoints),
            "config": absolute(analysis.config) if analysis.config else None,
            "base": absolute(analysis.base) if analysis.base else None,
            "store": absolute(analysis.store),
            "inputs": inputs,
            "measures": {_measure_from(key, absolute): of for key, of in analysis.measures.items()},
        }
        | _events_from(analysis.log_to, absolute)
    )


def measure_files(analysis: Analysis) -> list[str]:
    """Return the files of the user's own that an analysis takes measures from."""
    return [place for key in analysis.measures if (place := _file_of(key))]


def _events_from(log_to: LogTo, absolute: Callable[[str], str]) -> dict[str, LogTo]:
    """Return `log_to` with the path of TensorBoard's folder made absolute; {} without one."""
    if log_to.tensorboard is None:
        return {}
    folder = absolute(log_to.tensorboard)
    return {"log_to": log_to.model_copy(update={"tensorboard": folder})}


def _measure_from(key: str, absolute: Callable[[str], str]) -> str:
    """Return a key of `measures` with the path of a file of the user's own made absolute."""
    place = _file_of(key)
    return f"{absolute(place)}{key[len(place) :]}" if place else key


def _file_of(key: str) -> str:
    """Return the path in a key such as `my_measures.py:Skew.text`; "" for any other key."""
    place = key.rpartition(":")[0]
    return place if place.endswith(".py") else ""
