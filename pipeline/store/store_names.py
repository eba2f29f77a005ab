"""The names by which stores are known among others, by their addresses."""

from collections.abc import Sequence

from pipeline.errors import InputError


def store_name(uri: str) -> str:
    """Return the name by which a store is known among others: the last part of its address."""
    return uri.rstrip("/").rpartition("/")[2].removesuffix(".zarr") or uri


def store_names(uris: Sequence[str]) -> dict[str, str]:
    """Return stores by the names that tell them apart: with more of the address where one is not.

    `a/run.zarr` and `b/run.zarr` are "a/run" and "b/run". Raises InputError for a store that is
    given twice.
    """
    for count in range(1, max((len(_parts(uri)) for uri in uris), default=1) + 1):
        names = {"/".join(_parts(uri)[-count:]) or uri: uri for uri in uris}
        if len(names) == len(uris):
            return {store_name(uri): uri for uri in uris} if count == 1 else names
    twice = next(uri for at, uri in enumerate(uris) if _parts(uri) in map(_parts, uris[:at]))
    raise InputError(f"{twice} is given twice: give each store once")


def _parts(uri: str) -> list[str]:
    return uri.rstrip("/").removesuffix(".zarr").split("/")
