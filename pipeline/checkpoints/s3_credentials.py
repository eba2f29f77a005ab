"""Decide whether requests to S3 are sent without credentials, as public buckets allow.

They are where botocore finds none, and where the environment asks for it: `AWS_NO_SIGN_REQUEST`,
after the option of AWS's command line, or `AWS_SKIP_SIGNATURE`, as for object_store's clients.
"""

import os
from functools import lru_cache

from botocore.exceptions import BotoCoreError
from botocore.session import get_session
from fsspec.config import conf

_ASKED = ("AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE")
_OFF = ("", "0", "false", "no", "off")


def are_absent() -> bool:
    """Return whether requests are sent without credentials."""
    if _asked():
        return True
    if "key" in conf.get("s3", {}):  # fsspec's own configuration has them
        return False
    # botocore's answer depends on these and on files, which do not change while a process runs.
    return _found_none(tuple(sorted((k, v) for k, v in os.environ.items() if k[:4] == "AWS_")))


def why_absent() -> str:
    """Return a clause on why there are no credentials, and what to do if a bucket wants them."""
    if asked := _asked():
        return f"requests are sent without credentials, since {asked} is set: unset it"
    return (
        "no credentials were found, and the bucket is not public: set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )


def _asked() -> str:
    """Return the name of the variable that asks for requests without credentials; "" if none."""
    set_ = (name for name in _ASKED if os.environ.get(name, "").strip().lower() not in _OFF)
    return next(set_, "")


@lru_cache(8)  # each question may wait for a server that gives credentials to machines
def _found_none(environment: tuple[tuple[str, str], ...]) -> bool:
    try:
        return get_session().get_credentials() is None
    except BotoCoreError:  # a profile that does not exist is reported by the request itself
        return False
