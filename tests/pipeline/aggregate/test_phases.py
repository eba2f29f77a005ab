"""The rules on series made by hand, and on the failures to grok that runs show."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.phases import Phase, milestones, phases, summary_of

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


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["excluded_loss", "test_loss"])
def test_no_phase_rests_on_a_step_that_is_not_finite(name, value):
    broken = progress()
    broken[name][6] = value
    assert phases(broken) == []


def test_a_phase_without_a_step_of_its_own_is_left_out():
    # Excluded loss is lowest at the first step: no memorisation is seen.
    assert phases(progress(excluded_loss=[0.1, 1, 2, 3, 3, 3, 3, 3])) == []
    # Test loss goes from above half of its maximum to below 0.1 nats within one interval.
    sharp = progress(test_loss=[4.7, 9.0, 20.0, 22.0, 18.0, 17.0, 0.09, 1e-4])
    assert phases(sharp) == [Phase("memorisation", 0, 200), Phase("circuit formation", 200, 600)]
    # Excluded loss falls for as long as the model has not generalised: nothing lies between.
    falling = [4.7, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1.0]
    assert phases(progress(excluded_loss=falling)) == [Phase("memorisation", 0, 600)]
    # All is solved at the first step.
    assert phases(progress(test_loss=[0.05] * 8)) == []


def test_milestones_are_the_crossings_that_stay():
    """A dip below 0.1 at step 100 that comes back counts for none of the three losses."""
    dips = progress(
        train_loss=[4, 0.05, 2, 0.05, 0.01, 0.01, 0.01, 0.01],
        restricted_loss=[4, 0.05, 4, 4, 0.05, 0.01, 0.01, 0.01],
        test_loss=[4, 0.05, 4, 4, 4, 4, 4, 0.1],  # 0.1 is not below 0.1
    )
    wanted = {"train_loss": 300, "restricted_loss": 400, "test_loss": None}
    assert milestones(dips) == wanted
    found = summary_of(dips)
    assert [found[name] for name in ("memorised", "circuit", "generalised")] == [300, 400, None]


def test_a_loss_that_ends_not_finite_has_no_milestone():
    ended = progress(train_loss=[*TRAIN[:7], np.nan], test_loss=[*TEST[:7], np.inf])
    assert milestones(ended)["train_loss"] is None
    found = summary_of(ended)
    assert found["generalised"] is found["lead"] is found["test_falls"] is None
    began = progress(test_loss=[np.inf, *TEST[1:]])
    assert summary_of(began)["test_falls"] == 500  # half of 22, not of infinity


def test_generalised_at_step_0_has_no_lead():
    found = summary_of(progress(test_loss=[0.01] * 8))
    assert (found["generalised"], found["circuit"], found["lead"]) == (0, 400, None)


def test_the_lead_is_a_share_of_the_steps_to_generalise():
    found = summary_of(progress())
    assert (found["circuit"], found["generalised"]) == (400, 600)
    assert found["lead"] == pytest.approx(1 / 3)
    never = summary_of(progress(test_loss=[5.0] * 8))
    assert never["generalised"] is never["lead"] is never["test_falls"] is None
