"""Secrets within addresses: found, and left out of text.

An address can hold a secret as user information (`s3://KEY:SECRET@bucket`), or as a parameter of
its query, as signed URLs do. Storage clients read secrets from the environment or from files of
their own, so no address needs one.
"""

import re
from urllib.parse import unquote

HIDDEN = "[hidden]"

# The length of a scheme is limited, or the search would take quadratic time in a long word.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30}:/{2,})(?P<rest>[^\s\"'<>\\`]+)")
# User information ends at an "@". A secret key of AWS may contain "/", and so may the user
# information, unless what follows its colon is a port.
_USER = re.compile(r"(?:[^/?#@\s]*|[^/?#@:\s]*:(?!\d+(?:[/?#]|$))[^@\s]*)@")
# The same after a scheme with too few slashes, which makes a local path of it.
_MISSPELT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/?[^/@\s:]+:[^@\s]+@")
_SECRET_PARAMETER = re.compile(
    r"x-(amz|goog|ms|oss|cos)-.*|(aws|google|oss)?_?access_?key(_?id)?|googleaccessid"
    r"|.*signature|sig|.*token|.*passw(or)?d|pwd|.*secret.*|(.*api[_-]?)?key|.*credentials?"
    r"|auth(orization)?|key-pair-id|policy",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"(?P<before>[?&;#])(?P<name>[^=&;#?]+)=(?P<value>[^&;#]+)")
# Tokens of the Hugging Face Hub and of GitHub, and key ids of AWS, are known by their prefix.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16})"
)


def secret_in(address: str) -> str:
    """Return the kind of secret that an address holds; "" if it holds none, or is no address."""
    for form in dict.fromkeys((address, unquote(address))):
        parts = [part.lstrip("/") for part in form.split("://")[1:]]
        if _TOKEN.search(form) or _MISSPELT.match(form) or any(map(_USER.match, parts)):
            return "credentials"
        parameters = (found["name"] for part in parts for found in _PARAMETER.finditer(part))
        if any(map(_is_secret, parameters)):
            return "a signature or token"
    return ""


def redacted(text: str) -> str:
    """Return the text without the secrets of the addresses in it, and without known tokens."""
    if "://" in text:
        text = _ADDRESS.sub(_without_secrets, text)
    return _TOKEN.sub(HIDDEN, text)


def _without_secrets(found: re.Match[str]) -> str:
    # One address may stand within another, as in `simplecache::s3://...`.
    rest = "://".join(_without_user(part) for part in found["rest"].split("://"))
    return f"{found['scheme']}{_PARAMETER.sub(_without_value, rest)}"


def _without_user(rest: str) -> str:
    user = _USER.match(rest)
    return f"{HIDDEN}@{rest[user.end() :]}" if user else rest


def _without_value(found: re.Match[str]) -> str:
    value = HIDDEN if _is_secret(found["name"]) else found["value"]
    return f"{found['before']}{found['name']}={value}"


def _is_secret(parameter: str) -> bool:
    return _SECRET_PARAMETER.fullmatch(unquote(parameter)) is not None
