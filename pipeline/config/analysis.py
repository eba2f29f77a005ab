"""The fields of an analysis: checkpoints, inputs, measures, workers and the store."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.config.faults import Strict, faults_of, shown
from pipeline.config.inputs import InputSpec
from pipeline.config.places import Place, require_place
from pipeline.config.run_layout import RunLayout
from pipeline.config.saved_model import SavedModel
from pipeline.config.trackers import LogTo

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
