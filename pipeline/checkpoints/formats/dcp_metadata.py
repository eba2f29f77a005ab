"""Read the `.metadata` of torch.distributed.checkpoint without running any code in it.

The file is a pickle of `torch.distributed.checkpoint.metadata.Metadata` (torch 2.13): the shape and
dtype of each tensor, its chunks, and for each chunk the file and the bytes that it is in. torch
reads it with `pickle.load`, which runs whatever the file names. Here each class in it is replaced
by an empty one, any other name is refused, and torch's objects are built anew from checked values.
"""

import math
import pickle
import pickletools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from pipeline.errors import CheckpointError, first_line
from pipeline.outside import content_of, is_whole

# Bytes: a tensor of 1,000 chunks takes some 100 KB.
_LARGEST = 256 * 2**20
_MOST_TENSORS = 1_000_000

# The second is torch's before 2.0; OLMo-core has a writer of its own, with the same fields.
_PACKAGES = (
    "torch.distributed.checkpoint",
    "torch.distributed._shard.checkpoint",
    "olmo_core.distributed.checkpoint",
)
_CLASSES = {
    "metadata": (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    ),
    "filesystem": ("_StorageInfo",),
}  # fmt: skip
# The folder that the checkpoint was saved to, which is not used.
_UNUSED = [
    (module, name)
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
]


@dataclass(frozen=True)
class SavedTensors:
    """The tensors of a checkpoint. paths: the keys of each one's nested dictionaries, by its name.

    metadata: torch's description of them, without what is no tensor.
    """

    paths: Mapping[str, tuple[str, ...]]
    metadata: Metadata


def read_metadata(file: Path, sizes: Mapping[str, int]) -> SavedTensors:
    """Return the tensors that a `.metadata` file describes.

    sizes: bytes of the files beside it, by name. Raises CheckpointError, naming the file, if it
    names anything that could run code, is damaged, or describes other files than these.
    """
    content = content_of(file, CheckpointError, _LARGEST)
    try:
        saved = _unpickled(content)
        return _checked(saved, file, sizes)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # of any type, for a damaged pickle
        raise CheckpointError(
            f"{file}: is no metadata of torch.distributed.checkpoint ({first_line(error)}): "
            "save or copy the checkpoint again"
        ) from error


def _unpickled(content: bytes) -> Any:
    """Return what a pickle holds, its objects as ones of empty classes."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        # A pickle reserves memory for the highest index under which it keeps an object.
        keeps = operation.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if keeps and isinstance(argument, int) and argument > number:
            raise ValueError(f"it keeps an object under the index {argument:,}")
    return _Unpickler(BytesIO(content)).load()


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the classes of the metadata, as empty ones, and torch's constants."""

    def __init__(self, stream: BytesIO) -> None:
        super().__init__(stream)
        # New classes each time: a pickle can change the attributes of a class that it names.
        known = [
            (f"{package}.{module}", name)
            for package in _PACKAGES
            for module, names in _CLASSES.items()
            for name in names
        ]
        self._classes = {name: type(name[1], (_Record,), {}) for name in [*known, *_UNUSED]}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name in the pickle. Raises UnpicklingError for other names."""
        if (module, name) in self._classes:
            return self._classes[module, name]
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if (module, name) == ("torch.serialization", "_get_layout"):
            return str
        if (module, name) in (("builtins", "getattr"), ("__builtin__", "getattr")):
            return _member  # Python 3.11 pickles the member of an enumeration so
        found = getattr(torch, name, None) if module == "torch" else None
        if isinstance(found, torch.dtype):
            return found
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, and files that could run code are refused"
        )


class _Record:
    """An object of the metadata, with the values that were saved. `state`: if they are no names."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.__dict__["state"] = state


def _member(enumeration: Any, name: Any) -> tuple[Any, Any]:
    """Return an enumeration and the name of its member, neither of which is used."""
    return enumeration, name


def _checked(saved: Any, file: Path, sizes: Mapping[str, int]) -> SavedTensors:
    described, stored = _fields(saved, "state_dict_metadata", "storage_data")
    stored_at = {_index(key): _storage(value, file, sizes) for key, value in stored.items()}
    if len(described) > _MOST_TENSORS:
        raise ValueError(f"it describes {len(described):,} tensors")
    tensors = {
        _text(name): _tensor(_text(name), value)
        for name, value in described.items()
        if "chunks" in vars(value)
    }
    _check_stored(tensors, stored_at, sizes)
    planned = vars(saved).get("planner_data") or {}
    paths = {name: _path(name, planned.get(name)) for name in tensors}
    metadata = Metadata({**tensors}, planner_data=paths, storage_data=stored_at)
    return SavedTensors(paths, metadata)


def _check_stored(
    tensors: Mapping[str, TensorStorageMetadata],
    stored: Mapping[MetadataIndex, _StorageInfo],
    sizes: Mapping[str, int],
) -> None:
    """Raise ValueError unless every chunk is stored, in at least as many bytes as it needs."""
    total = 0
    for name, tensor in tensors.items():
        for chunk in tensor.chunks:
            found = stored.get(MetadataIndex(name, chunk.offsets))
            needed = math.prod(chunk.sizes) * tensor.properties.dtype.itemsize
            if found is None:
                raise ValueError(f"{name} has a chunk that is in no file")
            if found.length < needed:
                raise ValueError(f"{name} has a chunk of {needed:,} bytes in {found.length:,}")
            total += needed
    # The same bytes could otherwise be named for any number of tensors.
    if total > sum(sizes.values()):
        raise ValueError(f"its tensors have {total:,} bytes, its files {sum(sizes.values()):,}")


def _tensor(name: str, saved: Any) -> TensorStorageMetadata:
    """Return the description of a tensor. Raises ValueError unless its chunks make the whole."""
    properties, size, chunks = _fields(saved, "properties", "size", "chunks")
    dtype = vars(properties).get("state", [vars(properties).get("dtype")])[0]
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} has no dtype")
    shape = _sizes(size)
    pairs = [(_sizes(a), _sizes(b)) for a, b in (_fields(c, "offsets", "sizes") for c in chunks)]
    for offsets, lengths in pairs:
        ends = [start + length for start, length in zip(offsets, lengths, strict=True)]
        if len(ends) != len(shape) or any(map(lambda a, b: a > b, ends, shape)):
            raise ValueError(f"{name} has a chunk outside its shape {list(shape)}")
    if sum(math.prod(lengths) for _, lengths in pairs) != math.prod(shape):
        raise ValueError(f"the chunks of {name} are not the whole of its shape {list(shape)}")
    return TensorStorageMetadata(
        TensorProperties(dtype), shape, [ChunkStorageMetadata(a, b) for a, b in pairs]
    )


def _storage(saved: Any, file: Path, sizes: Mapping[str, int]) -> _StorageInfo:
    """Return where a chunk is stored. Raises CheckpointError for a file that is not there."""
    path, offset, length = _fields(saved, "relative_path", "offset", "length")
    if vars(saved).get("transform_descriptors"):
        raise CheckpointError(
            f"{file}: its tensors are compressed, which is not read: save the checkpoint without "
            "extensions"
        )
    if path not in sizes:
        raise CheckpointError(
            f"{file}: names the file {path!r}, which is not beside it: restore it"
        )
    if not (is_whole(offset) and is_whole(length)):
        raise ValueError(f"it has no place within {path}")
    if offset + length > sizes[path]:
        raise CheckpointError(
            f"{file.parent / path}: has {sizes[path]:,} bytes, {file.name} expects at least "
            f"{offset + length:,}: save or copy it again"
        )
    return _StorageInfo(path, offset, length)


def _index(saved: Any) -> MetadataIndex:
    (name,) = _fields(saved, "fqn")
    offset = vars(saved).get("offset")
    return MetadataIndex(_text(name), None if offset is None else _sizes(offset))


def _path(name: str, saved: Any) -> tuple[str, ...]:
    """Return the keys of nested dictionaries, or the flat name where none were recorded."""
    if not isinstance(saved, Collection) or isinstance(saved, str) or not saved:
        return (name,)
    return tuple(str(key) for key in saved)


def _fields(saved: Any, *names: str) -> list[Any]:
    if not isinstance(saved, _Record):
        raise ValueError(f"it holds {type(saved).__name__} for an object with {names[0]}")
    return [vars(saved)[name] for name in names]


def _sizes(saved: Any) -> torch.Size:
    if not isinstance(saved, tuple) or not all(is_whole(size) for size in saved):
        raise ValueError("it has a size that is no count")
    return torch.Size(saved)


def _text(saved: Any) -> str:
    if not isinstance(saved, str):
        raise ValueError(f"it has a name that is {type(saved).__name__}")
    return saved
