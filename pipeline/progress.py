"""Types of the functions that long work calls to report its progress."""

from collections.abc import Callable

# done, total, and what was done last, as in "step 512"
Progress = Callable[[int, int, str], None]

# done, total, and the last loss in nats
TrainingProgress = Callable[[int, int, float], None]

# what is begun, as in "auditing the checkpoints"
Tell = Callable[[str], None]
