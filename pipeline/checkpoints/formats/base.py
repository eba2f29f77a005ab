"""The interface of a file format (`Format`), and the files of a checkpoint that it reads from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # listings are made without torch
    from torch import Tensor


@runtime_checkable
class Source(Protocol):
    """The files of one checkpoint, wherever they are stored.

    uri: the checkpoint's address. names: of its files; of those one level down as "folder/name".
    """

    @property
    def uri(self) -> str:
        """The address."""
        ...

    @property
    def names(self) -> Collection[str]:
        """The names of its files."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        ...

    def described(self, name: str) -> Any:
        """Return what torch.save wrote in a file, its tensors on the meta device, without data."""
        ...


@runtime_checkable
class Format(Protocol):
    """A file format, implemented by each of the modules of `pipeline.checkpoints.formats`."""

    def weights(self, names: Collection[str]) -> list[str]:
        """Return the names of the files that hold weights; [] for a folder of another format."""
        ...

    def config(self, source: Source) -> dict[str, Any]:
        """Return the content of the config.json that the model is built from.

        Called for checkpoints without a config.json. Raises CheckpointError, naming the file, for a
        model that no architecture of transformers computes.
        """
        ...

    def tensors(self, files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the weights, by the names of transformers' parameters.

        files: local paths of the files that `weights` returned, by name. config: the content of
        config.json. Raises CheckpointError, naming the file, for one that is damaged.
        """
        ...


@runtime_checkable
class AssumingFormat(Format, Protocol):
    """A format whose files may lack facts about the model that `config` fills in."""

    def assumed(self, source: Source) -> list[str]:
        """Return sentences on the facts that are assumed, for a checkpoint without config.json."""
        ...


@dataclass(frozen=True)
class LocalParts:
    """The files on this machine that hold a checkpoint's weights, by name, and their format.

    format: None for that of Hugging Face.
    """

    files: Mapping[str, Path]
    format: Format | None = None
