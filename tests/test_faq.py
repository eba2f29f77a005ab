"""The messages in docs/faq.md are those that the commands print."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from flows.cli import app
from flows.driver_code import check_code
from pipeline.errors import InputError

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "faq.md").read_text()
ENTRY = re.compile(r"^### ([^\n]+)\n\n```text\n([^\n]+)\n```$", re.MULTILINE)
TEXT = {"kind": "text", "path": "prose.txt", "length": 32}
ARRAY = {"kind": "array", "path": "tokens.npy", "length": 32}

Case = Mapping[str, Any] | list[str]  # changes of an analysis that is run, or a command
CASES: dict[str, Case] = {
    "There is neither such a file nor such a preset": ["analyze", "inducton"],
    "Unknown key": {"chekpoints": "runs/my-model"},
    "There is no measure of that name": {"measures": ["head_score"]},
    "An input is not defined": {"measures": ["head_scores.texts"]},
    "The in-context score compares tokens that the sequences do not have": {
        "measures": ["token_loss"], "inputs": {"text": ARRAY},
    },
    "The sequences are longer than the model's context": {"measures": ["head_scores"]},
    "No tokenizer can be read": {"measures": ["token_loss"], "inputs": {"text": TEXT}},
    "The table of a modular task is not known": {"measures": ["modular_addition"]},
    "There is no such folder": {"checkpoints": "runs/my-modle"},
    "No finished checkpoint": {"checkpoints": "runs/empty"},
    "A weight file is truncated": {"checkpoints": "runs/damaged", "store": "damaged.zarr"},
    "A checkpoint has another architecture": {"checkpoints": "runs/other", "store": "other.zarr"},
    "The audit reports final weights": ["audit", "runs/copied"],
    "A step is not there": {"select": {"steps": [7]}},
    "No CUDA device": {"workers": {"device": "cuda"}},
    "A schedule needs a persistent server": ["watch", "valid.yaml"],
    "There is no store": ["query", "my-modle.zarr", "weight_norm/sum_of_squares"],
    "The store has no such step": [
        "query", "my-model.zarr", "weight_norm/sum_of_squares", "--step", "5",
    ],
}  # fmt: skip
ELSEWHERE = {"A worker has other code"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Go to a folder with a small run, an analysis and its store, and runs with faults."""
    made = tmp_path_factory.mktemp("faq")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.chdir(made)
        # Prefect keeps the settings of an earlier test of this process.
        patch.delenv("PREFECT_API_URL", raising=False)
        stack.enter_context(temporary_settings(restore_defaults={PREFECT_API_URL}))
        patch.setenv("PREFECT_HOME", str(made / "prefect"))  # in which no server is registered
        for step in (0, 1, 2):
            save(step, f"runs/my-model/step-{step}")
        for name in ("damaged", "other", "copied"):
            shutil.copytree("runs/my-model", f"runs/{name}")
        weights = Path("runs/damaged/step-1/model.safetensors")
        weights.write_bytes(weights.read_bytes()[:3000])
        save(1, "runs/other/step-1", hidden_size=32)
        copied = Path("runs/copied")
        shutil.copy(copied / "step-1/model.safetensors", copied / "step-2/model.safetensors")
        Path("runs/empty").mkdir()
        Path("prose.txt").write_text("one word after another " * 200)
        np.save("tokens.npy", np.zeros((64, 32), dtype=np.int64))
        assert printed(["analyze", analysis({}, "valid.yaml"), "--serial"])[0] == 0
        yield made


def save(seed: int, place: str, **changes: int) -> None:
    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig

    shape = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2}
    torch.manual_seed(seed)
    config = OrganismConfig(**shape | {"max_position_embeddings": 32} | changes)
    OrganismForCausalLM(config).save_pretrained(place)


def analysis(changes: Mapping[str, Any], name: str = "my-model.yaml") -> str:
    whole = {"checkpoints": "runs/my-model", "store": "my-model.zarr", "measures": ["weight_norm"]}
    Path(name).write_text(yaml.safe_dump(whole | dict(changes)))
    return name


def printed(arguments: list[str]) -> tuple[int, str]:
    """Run a command; return its exit code, and what it prints, with paths from here."""
    result = CliRunner().invoke(app, arguments)
    text = (result.stdout + result.stderr).replace(f"{Path.cwd()}/", "")
    return result.exit_code, text.replace(f"{Path.cwd().resolve()}/", "")


def messages(page: str) -> dict[str, str]:
    """Return the message of each entry of the page that has one, by its heading."""
    return dict(ENTRY.findall(page))


def test_every_message_has_a_case() -> None:
    quoted = PAGE.count("```text")
    assert messages(PAGE).keys() == CASES.keys() | ELSEWHERE and quoted == len(CASES) + 1


@pytest.mark.parametrize("heading", CASES)
def test_a_message_is_printed(heading: str) -> None:
    if heading == "No CUDA device" and torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    case = CASES[heading]
    command = case if isinstance(case, list) else ["analyze", analysis(case), "--serial"]
    code, text = printed(command)
    assert code in (1, 2)
    assert messages(PAGE)[heading] in " ".join(text.split())


def test_other_code_of_a_worker_is_refused() -> None:
    with pytest.raises(InputError, match=re.escape(messages(PAGE)["A worker has other code"])):
        check_code("the digest of other code")


def test_what_the_page_advises_for_short_contexts_works() -> None:
    mended = {
        "measures": {"token_loss": {"early_token": 4, "late_token": 30}, "head_scores": {}},
        "inputs": {"text": ARRAY, "repeated": {"kind": "repeated", "block_length": 12}},
        "store": "mended.zarr",
    }
    for said in ("token_loss: {early_token: 4, late_token: 30}", "block_length: 12}"):
        assert said in PAGE
    assert printed(["analyze", analysis(mended, "mended.yaml"), "--serial"])[0] == 0
