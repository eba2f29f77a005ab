"""Addresses in parameters that refer to Prefect variables, on a real server."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.variables import Variable

from flows.allowed_code import TRUSTED
from flows.analyze import analyze
from flows.places import resolve_place, resolve_places
from flows.verify import verify
from pipeline.config import Analysis
from pipeline.errors import InputError
from tests.benchmarks.servers import free_port

CONTENT: dict[str, Any] = {
    "checkpoints": "variable://runs/my model",
    "store": "variable://results_1/m.zarr",
    "inputs": {
        "a": {"kind": "array", "path": "variable://runs/ids.npy", "length": 8},
        "r": {"kind": "repeated", "block_length": 4, "sequences": 2},
    },
    "measures": {"weight_norm": {}},
}


@pytest.fixture(autouse=True)
def variables(server: str) -> None:
    Variable.set("runs", "s3://bucket/runs/", overwrite=True)
    Variable.set("results_1", "/results", overwrite=True)
    Variable.set("number", 3, overwrite=True)
    Variable.set("blank", " ", overwrite=True)
    Variable.set("leak", "s3://KEY:hushhush@bucket", overwrite=True)


def test_variables_replace_the_start_of_addresses() -> None:
    made = resolve_places(Analysis.model_validate(CONTENT))
    assert (made.checkpoints, made.store) == ("s3://bucket/runs/my model", "/results/m.zarr")
    assert made.inputs["a"].path == "s3://bucket/runs/ids.npy"  # type: ignore[union-attr]
    assert made.inputs["r"] == Analysis.model_validate(CONTENT).inputs["r"]
    assert resolve_place("variable://runs", "x") == "s3://bucket/runs/"
    plain = Analysis.model_validate({**CONTENT, "checkpoints": "c", "store": "s", "inputs": {}})
    assert resolve_places(plain) is plain


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("variable://absent/x", "stores: .* absent is no address: .*`prefect variable set absent"),
        ("variable://number", "number is no address"),
        ("variable://blank/x", "blank is no address"),
        ("variable://", "expected variable://NAME"),
        ("variable:///x", "expected variable://NAME"),
        ("variable://a b/x", "expected variable://NAME"),
        ("variable://../api", "expected variable://NAME"),
    ],
)
def test_a_variable_without_an_address_is_named(place: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_place(place, "stores")
    state = verify([place], return_state=True)
    assert state.is_failed() and str(state.message).startswith("stores: ")


def test_a_variable_with_a_secret_is_refused_without_it() -> None:
    state = analyze(
        Analysis.model_validate({**CONTENT, "store": "variable://leak/s"}), return_state=True
    )
    assert state.is_failed() and "the address holds credentials" in str(state.message)
    assert "hushhush" not in str(state.message)


def test_an_unset_variable_ends_the_run_in_a_sentence() -> None:
    content = {**CONTENT, "checkpoints": "variable://absent"}
    state = analyze(Analysis.model_validate(content), return_state=True)
    assert state.is_failed() and str(state.message).startswith("checkpoints: the Prefect variable")


def test_a_variable_allows_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {**CONTENT, "trust_remote_code": True}
    file = tmp_path / "trusted.yaml"
    file.write_text(yaml.safe_dump(content))
    file.chmod(0o600)
    monkeypatch.setenv(TRUSTED, str(file))
    state = analyze(Analysis.model_validate(content), return_state=True)
    assert state.is_failed() and "refused: the parameters ask to run" in str(state.message)
    assert "the code of s3://bucket/runs/my model" in str(state.message)


def test_a_server_that_is_away_is_named() -> None:
    away = f"http://127.0.0.1:{free_port()}/api"
    with (
        temporary_settings({PREFECT_API_URL: away}),
        pytest.raises(InputError, match="variable runs cannot be read"),
    ):
        resolve_place("variable://runs", "store")
