"""Write tests/data/saved_dataset with the library `datasets`, which the tests do not need.

    python tests/data/write_saved_dataset.py

Written with datasets 5.2.0.
"""

from pathlib import Path

from datasets import Dataset

rows: list[str | None] = [f"document {n} says that {n} is {n}. " * (n % 3 + 1) for n in range(40)]
rows[5] = None
saved = Dataset.from_dict(
    {"text": rows, "input_ids": [list(range(n % 7, n % 7 + 12)) for n in range(40)]}
)
saved.save_to_disk(str(Path(__file__).parent / "saved_dataset"), num_shards=2)
