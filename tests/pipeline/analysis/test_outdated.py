"""Groups that an analysis would compute again, with the reasons."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import Analysis, analyze
from pipeline.analysis.examination import resolve
from pipeline.analysis.outdated import outdated
from pipeline.analysis.survey import survey
from pipeline.measures.weight_norm import WeightNorm
from tests.pipeline.analysis.test_run import analysis


def changed(analysis: Analysis) -> dict[str, str]:
    return outdated(resolve(analysis, survey(analysis)))


def test_only_what_determines_rows_is_a_change(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(steps=(0, 1))
    first = analysis(run)
    assert not analyze(first).failed
    assert changed(first) == {}
    make_run(steps=(2,))
    assert changed(first) == {}  # a new checkpoint is not a change

    other = analysis(run, measures={"token_loss": {"early_token": 5, "late_token": 20}})
    assert list(changed(other)) == ["token_loss"]
    assert "'early_token': 5" in changed(other)["token_loss"]

    before = WeightNorm.version
    monkeypatch.setattr(WeightNorm, "version", before + 1)
    assert changed(first) == {"weight_norm": f"version {before} -> {before + 1}"}
    analyze(first)
    assert changed(first) == {}
