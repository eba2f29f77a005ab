"""An xarray backend, with which `xarray.open_datatree("run.zarr")` opens a store.

Every program that opens a file with xarray imports this module. Therefore it imports only what
xarray has imported already, and recognises a store by the names of its objects. The package that
reads stores is imported when one is opened.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xarray import Dataset, DataTree
from xarray.backends import BackendEntrypoint

_VERSION = re.compile(r"v\d{10}")  # an object in `versions/` (see pipeline/store/versions.py)
_OLD_ROOT = "rows/zarr.json"  # of a store of layout 1 (see pipeline/store/layout1.py)
# xarray asks about every address, so the answer must come soon, also if S3 cannot be reached.
_BRIEFLY = {
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": 3,
        "read_timeout": 10,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}


class OntogenyBackend(BackendEntrypoint):
    """Opens stores of Ontogeny, of the present layout and of layout 1, on disk and on S3."""

    description = "Open stores of Ontogeny: measures of a model's checkpoints by training step"
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return whether there is a store at an address; False for plain Zarr."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        uri = str(filename_or_obj).rstrip("/")
        try:
            return _is_s3_store(uri) if uri.startswith("s3://") else _is_local_store(uri)
        except Exception:  # another backend may say what is wrong with it
            return False

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        variants: Mapping[str, str] | None = None,
    ) -> Dataset:
        """Open one group. Raises InputError where none is given, and for an unknown one."""
        tree = _open_run(filename_or_obj, variants)
        return _group(tree, str(filename_or_obj), group or "", drop_variables)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        variants: Mapping[str, str] | None = None,
    ) -> dict[str, Dataset]:
        """Open all groups by their paths, or the one that is given as the root."""
        tree = _open_run(filename_or_obj, variants)
        if group and group.strip("/"):
            return {"/": _group(tree, str(filename_or_obj), group, drop_variables)}
        groups = {
            f"/{name}": _without(node.to_dataset(), drop_variables)
            for name, node in tree.children.items()
        }
        return {"/": Dataset(attrs=tree.attrs), **groups}

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        variants: Mapping[str, str] | None = None,
    ) -> DataTree:
        """Open a store as `pipeline.open_run` does, which says what the arguments mean."""
        return DataTree.from_dict(
            self.open_groups_as_dict(
                filename_or_obj, drop_variables=drop_variables, group=group, variants=variants
            )
        )


def _is_local_store(uri: str) -> bool:
    path = uri.removeprefix("file://")
    if "://" in path:
        return False
    folder = Path(path).expanduser()
    versions = folder / "versions"
    if versions.is_dir() and any(_VERSION.fullmatch(one.name) for one in versions.iterdir()):
        return True
    old = folder / _OLD_ROOT
    return old.is_file() and _is_old_root(old.read_bytes())


def _is_s3_store(uri: str) -> bool:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if Path(prefix).suffix not in ("", ".zarr"):
        return False  # no request for files of other formats
    from fsspec import filesystem

    s3: Any = filesystem("s3", **_BRIEFLY)
    answer = s3.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{prefix}/versions/v", MaxKeys=1)
    for found in answer.get("Contents", ()):
        return _VERSION.fullmatch(found["Key"].rpartition("/")[2]) is not None
    return _is_old_root(s3.cat_file(f"{uri}/{_OLD_ROOT}"))


def _is_old_root(content: bytes) -> bool:
    attributes = json.loads(content).get("attributes", {})
    return {"layout", "identity"} <= attributes.keys()


def _open_run(place: Any, variants: Mapping[str, str] | None) -> DataTree:
    _import_pipeline()
    from pipeline.query.run import open_run

    return open_run(str(place), variants)


def _import_pipeline() -> None:
    """Import the package `pipeline` from beside this file, whatever else has that name.

    Raises ImportError if the program has imported another module of that name: it needs that one.
    """
    from ontogeny import import_own_packages, is_own

    if "pipeline" in sys.modules and not is_own("pipeline"):
        other = getattr(sys.modules["pipeline"], "__file__", None) or "elsewhere"
        raise ImportError(
            f"this is a store of Ontogeny, whose package `pipeline` cannot be imported beside "
            f"another module of that name, from {other}: rename that one, or open what `ontogeny "
            "store export` makes of the store"
        )
    import_own_packages(("pipeline",))


def _group(
    tree: DataTree, uri: str, group: str, drop_variables: str | Iterable[str] | None
) -> Dataset:
    from pipeline.errors import InputError, suggestion

    name = group.strip("/")
    if not name:
        known = ", ".join(map(str, tree.children)) or "none, as long as nothing is stored"
        raise InputError(
            f"{uri}: open one of its groups with `group=...` ({known}), or all of them with "
            "xarray.open_datatree"
        )
    if name not in tree.children:
        raise InputError(f"{uri}: there is no group {name!r}; {suggestion(name, tree.children)}")
    return _without(tree.children[name].to_dataset(), drop_variables)


def _without(dataset: Dataset, variables: str | Iterable[str] | None) -> Dataset:
    dropped = [variables] if isinstance(variables, str) else list(variables or ())
    return dataset.drop_vars(dropped, errors="ignore")
