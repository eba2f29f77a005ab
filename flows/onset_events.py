"""Onsets that were found for the first time: each is logged and emitted once as a Prefect event."""

import json

from prefect import get_run_logger
from prefect.events import emit_event

from pipeline.findings.onsets import onsets_of
from pipeline.store import Store

EVENT = "ontogeny.onset"
_EMITTED = "_announced.json"  # in the store


def emit_onset_events(store_uri: str) -> list[str]:
    """Log and emit each onset that was not emitted before; return the new sentences.

    An automation may react to the event `ontogeny.onset`. The onsets are recorded in the store
    after the events: a run that is killed between the two emits them again rather than never.
    """
    objects = Store(store_uri).objects
    emitted = json.loads(objects.read(_EMITTED) or b"{}")
    found = onsets_of(store_uri)
    new = {key: sentence for key, sentence in found.items() if key not in emitted}
    for key, sentence in new.items():
        get_run_logger().warning("%s", sentence)
        emit_event(
            EVENT,
            resource={"prefect.resource.id": f"ontogeny.store.{store_uri}"},
            payload={"onset": key, "sentence": sentence, "store": store_uri},
        )
    if new:
        objects.replace(_EMITTED, json.dumps({**emitted, **new}, indent=1).encode())
    return list(new.values())
