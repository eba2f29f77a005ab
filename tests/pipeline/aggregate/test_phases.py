"""The rules on series made by hand, and on the failures to grok that runs show."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.phases import Phase, phases, summary_of
from pipeline.report.phases import three_phases

STEPS = [0, 100, 200, 300, 400, 500, 600, 700]
#              memorise  | circuit              | cleanup
TRAIN = [4.7, 0.9, 1e-4, 1e-6, 1e-7, 1e-7, 1e-7, 1e-7]
TEST = [4.7, 9.0, 20.0, 22.0, 18.0, 10.0, 0.09, 1e-4]
RESTRICTED = [4.7, 4.8, 4.0, 2.0, 0.09, 1e-3, 1e-6, 1e-7]
EXCLUDED = [4.7, 1.0, 1e-3, 0.5, 3.0, 8.0, 12.0, 5.0]


def progress(**changed: list[float]) -> xr.Dataset:
    series = {"train_loss": TRAIN, "test_loss": TEST, "restricted_loss": RESTRICTED,
              "excluded_loss": EXCLUDED} | changed  # fmt: skip
    arrays = {name: ("step", np.array(values)) for name, values in series.items()}
    return xr.Dataset(arrays, {"step": STEPS})


def test_the_three_phases_follow_one_another():
    assert phases(progress()) == [
        Phase("memorisation", 0, 200),
        Phase("circuit formation", 200, 500),
        Phase("cleanup", 500, 600),
    ]


def test_order_of_rows_does_not_matter():
    shuffled = progress().isel(step=[3, 0, 7, 1, 6, 2, 5, 4])
    assert phases(shuffled) == phases(progress())


def test_a_run_that_stops_within_cleanup():
    found = phases(progress(test_loss=[4.7, 9.0, 20.0, 22.0, 18.0, 10.0, 5.0, 2.0]))
    assert found[-1] == Phase("cleanup", 500, None)


def test_a_run_that_stops_within_circuit_formation():
    found = phases(progress(test_loss=[4.7, 9.0, 20.0, 22.0, 21.0, 20.0, 19.0, 18.0]))
    assert found[-1] == Phase("circuit formation", 200, None)
    assert len(found) == 2


def test_a_run_that_only_memorises():
    falling = [4.7, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    test = [4.7, 9.0, 20.0, 22.0, 23.0, 24.0, 25.0, 26.0]
    assert phases(progress(excluded_loss=falling, test_loss=test)) == [
        Phase("memorisation", 0, None)
    ]


def test_excluded_loss_that_falls_again_after_cleanup_moves_nothing():
    assert phases(progress(excluded_loss=[*EXCLUDED[:7], 1e-9])) == phases(progress())


def test_undefined_losses_have_no_phases():
    assert phases(progress(excluded_loss=[np.nan] * 8)) == []
    assert phases(progress().isel(step=[0])) == []


def test_the_lead_is_a_share_of_the_steps_to_generalise():
    found = summary_of(progress())
    assert (found["circuit"], found["generalised"]) == (400, 600)
    assert found["lead"] == pytest.approx(1 / 3)
    never = summary_of(progress(test_loss=[5.0] * 8))
    assert never["generalised"] is never["lead"] is never["test_falls"] is None


def test_the_plot_has_a_band_for_each_phase_and_its_steps():
    figure = three_phases(progress(), phases(progress()))
    bands = [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"]
    assert sorted(bands) == [(0, 200), (200, 500), (500, 600)]
    texts = " ".join(annotation.text for annotation in figure.layout.annotations)
    assert "circuit formation: steps 200 to 500" in texts
    unfinished = progress(test_loss=[4.7, 9.0, 20.0, 22.0, 21.0, 20.0, 19.0, 18.0])
    texts = " ".join(
        a.text for a in three_phases(unfinished, phases(unfinished)).layout.annotations
    )
    assert "circuit formation from step 200 on" in texts
