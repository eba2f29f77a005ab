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


def secrets_within(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the place and the kind of each secret in the texts of nested lists and mappings."""
    if isinstance(content, str):
        if kind := secret_in(content):
            yield ".".join(place), kind
    elif isinstance(content, dict):
        for key, value in content.items():
            if isinstance(key, str) and (kind := secret_in(key)):
                yield ".".join((*place, "(a key)")), kind
            else:
                yield from secrets_within(value, (*place, str(key)))
    elif isinstance(content, list | tuple):
        for at, value in enumerate(content):
            yield from secrets_within(value, (*place, str(at)))
