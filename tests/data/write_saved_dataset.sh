#!/bin/sh
# Write tests/data/saved_dataset with the library `datasets` (5.2.0), which the tests do not need.
#
#     sh tests/data/write_saved_dataset.sh

cd "$(dirname "$0")" && python - <<'PROGRAM'
from datasets import Dataset

rows = [f"document {n} says that {n} is {n}. " * (n % 3 + 1) for n in range(40)]
rows[5] = None
ids = [list(range(n % 7, n % 7 + 12)) for n in range(40)]
Dataset.from_dict({"text": rows, "input_ids": ids}).save_to_disk("saved_dataset", num_shards=2)
PROGRAM
