"""Places that a flow's parameters take from Prefect variables: `variable://NAME/rest/of/the/path`.

The value of the variable NAME replaces `variable://NAME`. It is read when a run starts, so that a
deployment follows a change of the variable. (`{{ prefect.variables.NAME }}` in a file of
deployments is read once, by `prefect deploy`, and is empty if the variable is not set.)
"""

import re

import httpx
from prefect.client.orchestration import get_client

from flows.server import without_retries
from pipeline.config import Analysis, validated
from pipeline.errors import InputError, first_line

SCHEME = "variable://"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")


def resolve_places(analysis: Analysis) -> Analysis:
    """Return an analysis with the values of the variables that its addresses refer to.

    Raises InputError for a variable that is not set, or whose value is not allowed in an analysis.
    """
    content = analysis.model_dump(mode="json", exclude_unset=True)
    holders = [(content, "checkpoints", "checkpoints"), (content, "store", "store")]
    holders += [(of, "path", f"inputs.{n}.path") for n, of in content.get("inputs", {}).items()]
    referring = [one for one in holders if str(one[0].get(one[1])).startswith(SCHEME)]
    if not referring:
        return analysis
    for holder, key, where in referring:
        holder[key] = resolve_place(holder[key], where)
    return validated(Analysis, content, where="the analysis with its variables")


def resolve_place(place: str, key: str) -> str:
    """Return an address with the value of the variable that it refers to, if it refers to one.

    key: of the parameter, for the message. Raises InputError if the variable is not set.
    """
    if not place.startswith(SCHEME):
        return place
    name, slash, rest = place.removeprefix(SCHEME).partition("/")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{key}: {place[:200]}: expected {SCHEME}NAME or {SCHEME}NAME/PATH, with the name of a "
            "Prefect variable"
        )
    value = _value(name, key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{key}: the Prefect variable {name} is no address: set it by `prefect variable set "
            f"{name} ADDRESS`, or in the UI"
        )
    return f"{value.rstrip('/')}/{rest}" if slash else value


def _value(name: str, key: str) -> object:
    """Return the value of a variable; None if it is not set."""
    try:
        with without_retries(), get_client(sync_client=True) as client:
            variable = client.read_variable_by_name(name)
    except httpx.HTTPError as error:
        raise InputError(
            f"{key}: the Prefect variable {name} cannot be read ({first_line(error)}): is the "
            "server there, and PREFECT_API_AUTH_STRING set?"
        ) from None
    return variable.value if variable else None
