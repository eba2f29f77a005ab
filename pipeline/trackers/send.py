"""Send what trackers have not received yet, and record in the store what was sent.

The record is the object `RECORD` of the store: by tracker and place, the run that was written, and
each number that was sent. A number is sent once, and again only if it has changed since (after its
checkpoint was replaced, or its measure). The record is written after the numbers: a process that is
killed between both sends them again rather than never.
"""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from pipeline.analysis.summary import Summary
from pipeline.config import Analysis
from pipeline.config.trackers import LogTo
from pipeline.errors import InputError, first_line
from pipeline.findings import findings
from pipeline.outside import parsed_json
from pipeline.redaction import redacted
from pipeline.store import Store
from pipeline.store.verify import SENT_RECORD as RECORD
from pipeline.trackers.clients import CLIENTS, Client
from pipeline.trackers.scalars import Scalars, scalars_of


@dataclass(frozen=True)
class Sent:
    """The result of sending to one tracker. error: why nothing more was sent; "" where all was."""

    tracker: str
    place: str
    numbers: int = 0
    findings: bool = False
    error: str = ""

    def sentence(self) -> str:
        """Return one line for people."""
        if self.error:
            return f"log_to: {self.tracker}: {self.place}: not sent ({self.error})"
        more = " and the findings" if self.findings else ""
        return f"{self.numbers:,} new numbers{more} sent to {self.tracker}: {self.place}"


def send(store: str, log_to: LogTo) -> list[Sent]:
    """Send the scalars and findings of a store to each tracker that `log_to` names.

    A tracker that fails does not keep others from receiving them. Raises InputError where there is
    no store, and where a client is not installed, before anything is sent.
    """
    if missing := log_to.missing():
        raise InputError(*missing)
    places = log_to.places()
    if not places:
        return []
    scalars, sentences = scalars_of(store), findings(store)
    return [_send(store, name, place, scalars, sentences) for name, place in places.items()]


def send_results(analysis: Analysis, summary: Summary) -> None:
    """Send what an analysis has stored to its trackers; the summary says what was sent, and not."""
    for sent in send(analysis.store, analysis.log_to):
        if sent.error:
            summary.not_sent[sent.tracker] = sent.sentence()
        else:
            summary.notes.append(sent.sentence())


def _send(store: str, name: str, place: str, scalars: Scalars, sentences: list[str]) -> Sent:
    objects = Store(store).objects
    record = _recorded(objects.read(RECORD))
    before = record.get(f"{name}: {place}", {})
    new = _unsent(scalars, before.get("scalars", {}))
    told = before.get("findings") != sentences
    if not new and not told:
        return Sent(name, place)
    try:
        with redirect_stdout(sys.stderr):  # clients print; our stdout may be JSON
            client = CLIENTS[name](place, store, before.get("run"))
            _write(client, new, sentences if told else None, _last_step(scalars))
    except Exception as error:  # of a client, which may raise anything
        reason = f"{type(error).__name__}: {redacted(first_line(error))}"
        return Sent(name, place, error=reason)
    kept = {key: {str(step): value for step, value in of.items()} for key, of in scalars.items()}
    record[f"{name}: {place}"] = {"run": client.run, "scalars": kept, "findings": sentences}
    objects.put({RECORD: json.dumps(record).encode()})
    return Sent(name, place, sum(map(len, new.values())), told)


def _write(
    client: Client, new: dict[int, dict[str, float]], sentences: list[str] | None, last: int
) -> None:
    """Write numbers by step, and the findings at the last step; then close the client."""
    try:
        for step, values in sorted(new.items()):
            client.log(step, values)
        if sentences is not None:
            client.findings(last, sentences)
    finally:
        client.close()


def _last_step(scalars: Scalars) -> int:
    """Return the last step with a number: a text of an earlier one would not replace the others."""
    return max((step for of in scalars.values() for step in of), default=0)


def _unsent(scalars: Scalars, sent: dict[str, Any]) -> dict[int, dict[str, float]]:
    """Return by step the numbers that were not sent, or have changed since."""
    new: dict[int, dict[str, float]] = {}
    for name, of in scalars.items():
        known = sent.get(name, {})
        for step, value in of.items():
            if known.get(str(step)) != value:
                new.setdefault(step, {})[name] = value
    return new


def _recorded(content: bytes | None) -> dict[str, Any]:
    """Return the record of a store; {}, after which all is sent again, where it is damaged."""
    try:
        record = parsed_json(content or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) and all(map(_is_sound, record.values())) else {}


def _is_sound(sent: Any) -> bool:
    """Return whether this is the record of one tracker."""
    return (
        isinstance(sent, dict)
        and isinstance(sent.get("run"), str)
        and isinstance(sent.get("scalars"), dict)
        and all(isinstance(of, dict) for of in sent["scalars"].values())
    )
