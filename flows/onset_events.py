"""What has set in since the store was last looked at, said once: as a warning and as an event."""

import json

from prefect import get_run_logger
from prefect.events import emit_event

from pipeline.findings.onsets import onsets_of
from pipeline.store import Store

EVENT = "ontogeny.onset"
_SAID = "_announced.json"


def announce(store_uri: str) -> list[str]:
    """Announce each onset that was not announced before; returns the new sentences.

    An automation may react to the event `ontogeny.onset`. What was said is kept in the store, after
    it was said: a run that is killed between the two says it again.
    """
    objects = Store(store_uri).objects
    said = json.loads(objects.read(_SAID) or b"{}")
    found = onsets_of(store_uri)
    new = {key: sentence for key, sentence in found.items() if key not in said}
    for key, sentence in new.items():
        get_run_logger().warning("%s", sentence)
        emit_event(
            EVENT,
            resource={"prefect.resource.id": f"ontogeny.store.{store_uri}"},
            payload={"onset": key, "sentence": sentence, "store": store_uri},
        )
    if new:
        objects.put({_SAID: json.dumps({**said, **new}, indent=1).encode()})
    return list(new.values())
