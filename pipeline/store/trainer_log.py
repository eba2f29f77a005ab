"""The Trainer's own log of a run, kept beside the rows as JSON.

    trainer_log/<number>.json      8 digits; the highest number stands

Nothing is overwritten: a log that has grown is the next number, created if absent. The one before
it is kept for readers that have listed it; earlier ones are removed.
"""

import json
import math
from contextlib import suppress
from typing import Any

from pipeline.checkpoints.trainer_log import FIELDS, TrainerLog
from pipeline.errors import InputError
from pipeline.outside import is_whole, parsed_json
from pipeline.store.objects import Objects

FOLDER = "trainer_log"


def keep_trainer_log(objects: Objects, log: TrainerLog) -> None:
    """Keep a log, unless it is the one that stands already."""
    values = {
        name: [None if math.isnan(one) else one for one in of] for name, of in log.values.items()
    }
    about = {"source": log.source, "left_out": list(log.left_out)}
    content = json.dumps({**about, "steps": list(log.steps), "values": values}).encode()
    keys = _keys(objects)
    if keys and objects.read(keys[-1]) == content:
        return
    number = int(keys[-1].partition("/")[2].partition(".")[0]) + 1 if keys else 1
    with suppress(FileExistsError):  # another analysis was quicker; the next one adds what is new
        objects.create(f"{FOLDER}/{number:08d}.json", content)
    objects.delete_all(keys[:-1])


def load_trainer_log(objects: Objects) -> TrainerLog | None:
    """Return the log that stands; None without one. Raises InputError for a damaged one."""
    keys = _keys(objects)
    content = objects.read(keys[-1]) if keys else None
    if content is None:
        return None
    try:
        found: dict[str, Any] = parsed_json(content)
        values = {
            name: [math.nan if one is None else float(one) for one in of]
            for name, of in found["values"].items()
        }
        steps = found["steps"]
        if not all(map(is_whole, steps)) or any(len(of) != len(steps) for of in values.values()):
            raise ValueError("its steps and numbers do not fit together")
        if not values.keys() <= set(FIELDS):
            raise ValueError("it has other fields")
        return TrainerLog(found["source"], steps, values, found["left_out"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{objects.uri}/{keys[-1]}: is damaged: remove it, and run the analysis again"
        ) from error


def _keys(objects: Objects) -> list[str]:
    return sorted(key for key in objects.list(FOLDER) if key.removesuffix(".json")[-8:].isdecimal())
