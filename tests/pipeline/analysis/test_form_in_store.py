"""Variables that a model's form leaves undefined, and models without layers, end to end."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM

from pipeline import Analysis, analyze, open_run
from pipeline.analysis.summary import Summary
from pipeline.findings import findings
from pipeline.findings.onsets import onsets_of
from pipeline.models.organism_config import OrganismConfig
from pipeline.report import write_report
from pipeline.report.sparklines import overview
from pipeline.store import Store
from pipeline.store.verify import verify
from tests.pipeline.circuit_families import config_of

BLOCKS = {"kind": "repeated", "block_length": 10, "sequences": 8}  # enough for a null


def analyzed(folder: Path, config, *measures: str) -> tuple[Summary, str]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder / "run/checkpoint-1")
    analysis = Analysis.model_validate(
        {
            "checkpoints": str(folder / "run"),
            "store": str(folder / "store"),
            "measures": {name: {} for name in measures},
            "inputs": {"repeated": BLOCKS, "shuffled": {**BLOCKS, "shuffled": True}},
            "audit": "off",
        }
    )
    return analyze(analysis), str(folder / "store")


def stored(run: xr.DataTree, name: str) -> np.ndarray:
    return np.asarray(run[name])


def test_an_opt_with_norms_after_its_blocks_is_nan_where_not_exact(tmp_path):
    config = config_of("opt")
    config.do_layer_norm_before = False
    summary, store = analyzed(
        tmp_path, config, "logit_lens", "repeat_loss", "copying", "composition",
        "qk_prefix_matching", "behavioural_copying", "head_labels", "effective_rank",
    )  # fmt: skip
    run = open_run(store)
    assert stored(run, "logit_lens/loss")[0, -1] == pytest.approx(
        stored(run, "repeat_loss/repeated")[0], rel=1e-6
    )
    undefined = {"copying", "composition", "qk_prefix_matching", "behavioural_copying"}
    assert set(summary.undefined) == undefined == set(asdict(summary)["undefined"])
    for name in ("copying/ov_copying", "composition/k", "qk_prefix_matching/score"):
        assert np.isnan(stored(run, name)).all()
    assert (stored(run, "qk_prefix_matching/partner_head") == -1).all()
    assert "not what attention adds to the stream" in run["copying"].attrs["undefined"]
    assert np.isfinite(stored(run, "effective_rank/qk")).all()


def test_the_unmet_assumption_is_part_of_what_determines_a_row(tmp_path, monkeypatch):
    store = analyzed(tmp_path, config_of("opt"), "copying", "repeat_loss")[1]
    assert np.isfinite(stored(open_run(store), "copying/ov_copying")).all()
    monkeypatch.setattr(
        "pipeline.analysis.examination.unmet_assumptions", lambda *_: {"stream": "it is torn"}
    )
    summary, store = analyzed(tmp_path, config_of("opt"), "copying", "repeat_loss")
    assert summary.computed == [1]
    assert np.isnan(stored(open_run(store), "copying/ov_copying")).all()


def test_a_model_of_no_layers_is_analysed_and_what_is_empty_is_said(tmp_path):
    config = OrganismConfig(
        vocab_size=40, hidden_size=16, num_attention_heads=2, num_hidden_layers=0,
        max_position_embeddings=32, intermediate_size=0,
    )  # fmt: skip
    summary, store = analyzed(
        tmp_path, config, "head_scores", "head_labels", "composition", "copying", "repeat_loss",
        "logit_lens", "direct_logits", "residual_norm", "effective_rank", "head_ablation",
    )  # fmt: skip
    run = open_run(store)
    assert not summary.failed
    assert stored(run, "head_scores/induction").shape == (1, 0, 2)
    assert stored(run, "composition/k").shape == (1, 0, 2, 0, 2)
    assert summary.undefined["copying"].endswith("empty, because the model has no layers")
    assert "repeat_loss" not in summary.undefined
    own = stored(run, "repeat_loss/repeated")[0]
    assert stored(run, "logit_lens/loss") == pytest.approx(own, rel=1e-6)
    parts = stored(run, "direct_logits/embedding") + stored(run, "direct_logits/bias")
    assert stored(run, "direct_logits/logit") == pytest.approx(parts, rel=1e-5)
    assert np.isfinite(stored(run, "effective_rank/embedding_unembedding")).all()
    assert findings(store) and overview(store) and onsets_of(store) == {}
    assert write_report([store], tmp_path / "report").exists()
    assert not verify(Store(store)).faults
