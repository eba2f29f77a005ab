"""The example of a Trainer's run, for each model family."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from flows.cli import app
from pipeline import open_run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_the_example_analyses_what_a_trainer_wrote(family: str, tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", examples)
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    train = runpy.run_path(str(ROOT / "examples" / "trainer_run.py"))["train"]
    train(family, examples / "trainer-run", steps=4, save_every=2)

    config = examples / "trainer-run.yaml"
    result = CliRunner().invoke(app, ["analyze", str(config), "--serial"])
    assert result.exit_code == 0, result.output
    assert "2 checkpoints: 2 computed" in result.stdout

    tree = open_run(str(examples / "trainer-run.zarr"))
    loss = tree["token_loss"]
    assert list(loss.step) == [2, 4]
    assert list(loss.tokens_seen) == [2 * 8 * 128, 4 * 8 * 128]
    assert tree["head_scores"]["induction"].shape == (2, 2, 4)
    model = AutoModelForCausalLM.from_pretrained(examples / "trainer-run" / "checkpoint-4")
    np.testing.assert_allclose(loss["mean"].sel(step=4), _mean_loss(model, examples), atol=1e-4)


def _mean_loss(model: torch.nn.Module, examples: Path) -> float:
    """Return the loss by transformers on the first 16 x 128 tokens of the example's text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(examples / "trainer-run" / "checkpoint-4")
    text = (ROOT / "pipeline" / "config" / "analysis.py").read_text()
    ids = torch.tensor(tokenizer(text)["input_ids"])[: 16 * 128].view(16, 128)
    with torch.no_grad():
        return float(model.eval()(input_ids=ids, labels=ids).loss)
