"""Scores on two corpora and their agreement."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline import Analysis, analyze, open_run
from pipeline.config import ArrayInput
from pipeline.errors import InputError
from pipeline.measures.corpus_agreement import correlation


@pytest.fixture
def analysis(make_run, tmp_path) -> Analysis:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "low.npy", rng.integers(0, 10, (4, 20)))
    np.save(tmp_path / "high.npy", rng.integers(30, 40, (3, 24)))
    inputs = {
        "text": ArrayInput(path=str(tmp_path / "low.npy"), sequences=4, length=20),
        "code": ArrayInput(path=str(tmp_path / "high.npy"), sequences=3, length=24),
    }
    run = make_run(steps=(0, 5), initializer_range=0.6)
    measures = {"corpus_agreement": {"other": "code"}}
    return Analysis(
        checkpoints=str(run), store=str(tmp_path / "s.zarr"), inputs=inputs, measures=measures
    )


def test_both_corpora_and_their_agreement_are_in_the_store(analysis, tmp_path):
    assert not analyze(analysis).failed
    found = open_run(analysis.store)["corpus_agreement"].sel(step=5)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "run" / "step-5", attn_implementation="eager"
    )
    for name, variable in (("low", "here"), ("high", "there")):
        ids = torch.from_numpy(np.load(tmp_path / f"{name}.npy"))
        with torch.no_grad():
            p = torch.stack(model(ids, output_attentions=True).attentions).double()
        expected = {
            "current_token": p.diagonal(dim1=-2, dim2=-1).mean((1, 3)),
            "previous_token": p.diagonal(-1, dim1=-2, dim2=-1).mean((1, 3)),
            "first_token": p[..., 1:, 0].mean((1, 3)),
            "entropy": torch.special.entr(p[..., 1:, :]).sum(-1).mean((1, 3)),
        }
        for score, value in expected.items():
            np.testing.assert_allclose(found[variable].sel(head_score=score), value, atol=1e-5)
    for score in found["head_score"].values:
        here, there = (
            found[name].sel(head_score=score).values.ravel() for name in ("here", "there")
        )
        r = np.corrcoef(here, there)[0, 1]
        assert found["correlation"].sel(head_score=score).item() == pytest.approx(r, abs=1e-4)
        difference = np.abs(here - there).mean()
        assert found["difference"].sel(head_score=score).item() == pytest.approx(
            difference, rel=1e-4
        )


def test_a_corpus_that_is_not_configured_is_asked_for(analysis):
    missing = analysis.model_copy(update={"measures": {"corpus_agreement": {}}})
    with pytest.raises(InputError, match="reads the input 'other_text'"):
        analyze(missing)


def test_correlation_is_pearsons_and_nan_without_spread():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4))
    assert correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert np.isnan(correlation(a, np.ones((3, 4))))


def test_correlation_of_what_is_not_finite_is_nan():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4))
    for bad in (np.nan, np.inf):
        a[1, 2] = bad
        with np.errstate(invalid="ignore"):
            assert np.isnan(correlation(a, b)) and np.isnan(correlation(b, a))
