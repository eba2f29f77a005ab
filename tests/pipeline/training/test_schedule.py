import pytest
from pydantic import ValidationError

from pipeline.training.schedule import Schedule


@pytest.mark.parametrize(
    ("log_until", "every", "last", "expected"),
    [
        (512, 1000, 3000, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000]),
        (512, 1000, 2500, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 2500]),
        (16, 25, 60, [0, 1, 2, 4, 8, 16, 25, 50, 60]),
        (20, 10, 45, [0, 1, 2, 4, 8, 16, 30, 40, 45]),
        (8, 8, 24, [0, 1, 2, 4, 8, 16, 24]),
        (0, 3, 7, [0, 3, 6, 7]),
        (1, 3, 7, [0, 1, 3, 6, 7]),
        (512, 1000, 5, [0, 1, 2, 4, 5]),
        (512, 1, 1, [0, 1]),
        (0, 1000, 3, [0, 3]),
    ],
)
def test_steps_are_those_written_out_by_hand(log_until, every, last, expected):
    assert Schedule(log_until=log_until, every=every).steps(last) == expected


def test_pythias_schedule_is_the_default():
    steps = Schedule().steps(143_000)
    assert len(steps) == 154 and steps[:11] == [0, *(2**k for k in range(10))]
    assert steps[11:] == list(range(1000, 144_000, 1000))


def test_an_interval_of_no_steps_is_refused():
    with pytest.raises(ValidationError):
        Schedule(every=0)
