"""The JSON schemas accept every file of the package and refuse misspelt keys and wrong values."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline.analysis.file_schemas import analysis_schema, training_schema
from pipeline.config import parse_yaml, read_yaml
from pipeline.config.analysis import Cache, GroupOptions, Selection
from pipeline.config.inputs import RepeatedInput
from pipeline.config.json_schema import field_descriptions, summary_of
from pipeline.measures import registry
from pipeline.training.config import Optimizer, Part
from pipeline.training.config import Training as TrainingFile
from pipeline.training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[3]
FILES = [
    *sorted((ROOT / "pipeline/presets").glob("*.yaml")),
    *sorted((ROOT / "pipeline/training/presets").glob("*.yaml")),
    *sorted((ROOT / "examples").glob("*.yaml")),
]
SMALL = {"checkpoints": "run", "store": "run.zarr", "measures": {"weight_norm": None}}
FREE = {"inputs", "sweep"}  # mappings whose keys are names that the user chooses


@cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = {"analysis": analysis_schema, "training": training_schema}[kind]()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def kind_of(content: dict[str, Any]) -> str:
    return "training" if "task" in content else "analysis"


def accepts(content: dict[str, Any]) -> bool:
    # JSON values, as an editor has them.
    return validator(kind_of(content)).is_valid(json.loads(json.dumps(content)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_of_the_package_are_accepted(path: Path) -> None:
    content = read_yaml(path)
    assert list(validator(kind_of(content)).iter_errors(content)) == []


def test_the_analysis_in_the_readme_is_accepted() -> None:
    text = (ROOT / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    assert list(validator("analysis").iter_errors(parse_yaml(text, "README"))) == []


def misspelt(value: Any, free: bool = False) -> Iterator[Any]:
    """Yield the value with one key misspelt, for each key at any depth that the schema names."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if not free:
            yield {f"x{name}" if name == key else name: one for name, one in value.items()}
        for wrong in misspelt(inner, key in FREE):
            yield {**value, key: wrong}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_misspelt_key_is_refused(path: Path) -> None:
    wrong = list(misspelt(read_yaml(path)))
    assert len(wrong) > 2
    assert [one for one in wrong if accepts(one)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"measures": ["head_score"]},
        {"measures": ["weight_norm.text"]},  # reads weights only
        {"measures": []},
        {"measures": {}},
        {"measures": ["sink", "sink"]},
        {"measures": {"token_loss": {"early_token": "50"}}},
        {"measures": {"token_loss.other": {"earlytoken": 3}}},
        {"measures": {"token_loss": {"float16": ["losses"]}}},
        {"measures": {"sink": {"select": {"nth": 2}}}},
        {"inputs": {"text": {"path": "prose.txt"}}},  # without a kind
        {"inputs": {"text": {"kind": "txt", "path": "prose.txt"}}},
        {"inputs": {"text": {"kind": "text"}}},
        {"inputs": {"more": {"kind": "repeated", "repeats": 1}}},
        {"workers": {"device": "gpu"}},
        {"workers": {"count": 0}},
        {"model": {"act_fun": "relu"}},
        {"audit": "shallow"},
        {"tokens_per_step": 1.5},
        {"checkpoints": None},
    ],
    ids=str,
)
def test_wrong_values_are_refused(change: dict[str, Any]) -> None:
    assert accepts(SMALL) and not accepts(SMALL | change)


@pytest.mark.parametrize(
    "change",
    [
        {"measures": ["sink", "sink.other text", "own.py:Skew", "some.package:Kurtosis.text"]},
        {"measures": {"sink.é": {"select": {"every": 2}}, "../own.py:Skew": {"any": [1]}}},
        {"measures": {"token_loss": {"early_token": 5e1, "float16": ["loss"]}}},
        {"inputs": {"a b": {"kind": "repeated", "ids": [5, 40], "skip_rarest": 0.25}}},
        {"inputs": {"table": {"kind": "table", "split_generator": "orbits"}}},
        {"model": {"act_fn": "relu", "normalization_type": None}, "audit": "off"},
        {"select": {"steps": [0, 512]}, "cache": {"bytes": None}, "workers": {"gpus": 0.5}},
    ],
    ids=str,
)
def test_valid_values_are_accepted(change: dict[str, Any]) -> None:
    errors = validator("analysis").iter_errors(json.loads(json.dumps(SMALL | change)))
    assert [one.message for one in errors] == []


def test_keys_of_a_sweep_are_fields() -> None:
    content = read_yaml(ROOT / "examples/grokking-sweep.yaml")
    assert accepts(content)
    for key in ("task.share", "optimizer.weight_decays", "models.dropout", "threads.count"):
        assert not accepts(content | {"sweep": {key: [1]}})
    for values in ([], 0.5, {"from": 0}):
        assert not accepts(content | {"sweep": {"seed": values}})


def test_every_measure_is_a_property_with_its_parameters() -> None:
    schema = validator("analysis").schema
    by_name = schema["properties"]["measures"]["anyOf"][0]["properties"]
    assert registry().keys() <= by_name.keys()
    for name, kind in registry().items():
        properties = schema["$defs"][f"measure.{name}"]["properties"]
        assert properties.keys() == kind.model_fields.keys() | {"select", "float16"}
        for parameter, field in kind.model_fields.items():
            default = json.loads(json.dumps(field.default))
            assert properties[parameter]["default"] == default
            assert properties[parameter]["description"]


@pytest.mark.parametrize(
    "model",
    [*(Cache, GroupOptions, Optimizer, Part, RepeatedInput, Schedule, Selection), TrainingFile],
    ids=lambda model: model.__name__,
)
def test_every_field_is_described(model: Any) -> None:
    described = field_descriptions(model)
    assert model.model_fields.keys() - described.keys() <= {"kind"}
    for text in (summary_of(model), *described.values()):
        assert text[0].isupper() and text.endswith((".", ")")) and "  " not in text


def test_descriptions_are_those_of_the_docstring() -> None:
    described = field_descriptions(RepeatedInput)
    assert described["seed"] == "Of the random ids."
    assert described["block_length"] == "Length of the longest blocks, in tokens."
    assert described["skip_commonest"] == described["skip_rarest"]
    assert described["vary"].startswith("Give the sequences'") and "repeats:" not in str(described)


def test_no_reference_is_dangling() -> None:
    for kind in ("analysis", "training"):
        schema = deepcopy(validator(kind).schema)
        names = {ref.rpartition("/")[2] for ref in references(schema)}
        assert names and names <= schema["$defs"].keys()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_command_prints_the_schema() -> None:
    for arguments, kind in (([], "analysis"), (["training"], "training")):
        result = CliRunner().invoke(app, ["schema", *arguments])
        assert result.exit_code == 0 and json.loads(result.stdout) == validator(kind).schema
    wrong = CliRunner().invoke(app, ["schema", "analyses"])
    assert wrong.exit_code == 2 and "did you mean 'analysis'?" in wrong.stderr
