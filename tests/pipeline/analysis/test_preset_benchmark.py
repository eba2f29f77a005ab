"""The benchmark of presets runs, on tiny models, and its parts add up."""

import json

import pytest

from tests.benchmarks import preset


@pytest.mark.parametrize("name", ["detailed", "modular-addition"])
def test_the_benchmark_of_presets_prints_what_it_says(
    name: str, capsys: pytest.CaptureFixture[str]
):
    preset.main(["--json", "--tiny", "--rounds", "1", "--threads", "1", "--presets", name])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    row = found["presets"][name]
    seconds = row["seconds"]
    parts = [of for part, of in seconds.items() if part not in ("whole", "computed", "reading")]
    assert seconds["computed"] == pytest.approx(sum(parts)) and seconds["passes"] > 0
    assert 0 < seconds["computed"] < seconds["whole"]
    assert row["whole_over_bare"] == pytest.approx(seconds["whole"] / row["bare_seconds"])
    assert "weight_norm" in seconds
    assert "pythia_70m_over_losses" not in found  # the model was not of that shape
