"""The check of an address before it is used: it is kept and printed, so it may hold no secret."""

from collections.abc import Iterator
from typing import Any

from pipeline.errors import InputError
from pipeline.redaction import secret_in

_ADVICE = (
    "which would be stored and printed with the run: set them in the environment or in the "
    "place's own credentials file, and leave them out of the address"
)


def require_no_secret(address: str, where: str = "") -> str:
    """Return the address. Raises InputError, which does not repeat it, if it holds a secret."""
    if kind := secret_in(address):
        scheme = address.partition(":")[0][:20] if ":" in address else "..."
        raise InputError(f"{where or f'{scheme}://...'}: {refusal(kind)}")
    return address


def refusal(kind: str) -> str:
    """Return the sentence that refuses an address with a secret of that kind."""
    return f"the address holds {kind}, {_ADVICE}"


def faults_within(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the place and a sentence for each text of nested values that cannot be kept."""
    for place, text in _texts(content):
        if kind := secret_in(text):
            yield place, refusal(kind)
        elif any("\ud800" <= one <= "\udfff" for one in text):
            yield place, "it holds half of a surrogate pair, which no file can: remove it"


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """Yield each text within nested values, with its place; without recursion, however deep."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen = set[int]()
    while pending:
        place, value = pending.pop()
        if isinstance(value, str):
            yield ".".join(place), value
        if not isinstance(value, dict | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            # The place does not name a key that is a fault itself.
            for key in value:
                yield ".".join((*place, "(a key)")), str(key)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        pending += [((*place, str(key)), inner) for key, inner in items][::-1]
