"""The bytes of checkpoints' weights that an analysis reads, from headers: no weights are read."""

from collections.abc import Sequence
from functools import cached_property, partial

from transformers import PreTrainedModel

from pipeline.analysis.job import Prepared
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.contents import format_of_files, read_bytes
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder, place_of
from pipeline.checkpoints.stored import Folder, Place
from pipeline.checkpoints.tensor_ranges import RangedFile, bytes_to_read, header_of
from pipeline.checkpoints.weight_files import weight_parts
from pipeline.checkpoints.wrappers import without_wrappers
from pipeline.errors import CheckpointError
from pipeline.models.architecture import without_memory
from pipeline.models.fit import renames, sources


def needed_bytes(
    prepared: Prepared, checkpoints: Sequence[Checkpoint], whole: Sequence[int]
) -> list[int]:
    """Return the bytes of each checkpoint's weights that its groups read.

    whole: all bytes of each. The headers of one checkpoint are read for all whose files have the
    same names and sizes. Raises OSError where a storage does not answer.
    """
    sizes = _Sizes(prepared)
    parameters = _parameters_by_step(prepared)
    return [
        sizes.of(one, parameters[one.step], size) if one.step in parameters else 0
        for one, size in zip(checkpoints, whole, strict=True)
    ]


def _parameters_by_step(prepared: Prepared) -> dict[int, frozenset[str] | None]:
    """Return the parameters that the groups of each step read together; None for all.

    Steps that no group selects, and of which nothing is read, are left out.
    """
    found: dict[int, frozenset[str] | None] = {}
    if prepared.job.needing_reference() and prepared.checkpoints:
        found[prepared.checkpoints[-1].step] = None  # of the last one, whether selected or not
    for group in prepared.job.groups:
        names = prepared.weights_read[group.name]
        for checkpoint in prepared.checkpoints_of(group):
            others = found.get(checkpoint.step, frozenset())
            if names is None or others is None:
                found[checkpoint.step] = None
            else:
                found[checkpoint.step] = names | others
    return found


class _Sizes:
    """Counts bytes for one model, and remembers the results."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._known: dict[object, int] = {}

    def of(self, checkpoint: Checkpoint, parameters: frozenset[str] | None, whole: int) -> int:
        """Return the bytes that are read of a checkpoint; `whole` if it cannot be read in part."""
        if parameters is None or not whole:
            return whole
        place, folder = place_of(checkpoint.uri), listed_folder(checkpoint)
        parts = weight_parts(place, folder)
        key = (parameters, *((part.name, part.size) for part in parts))
        if key not in self._known:
            names = [part.name for part in parts]
            self._known[key] = self._counted(place, folder, names, parameters) or whole
        return self._known[key]

    def _counted(
        self, place: Place, folder: Folder, names: Sequence[str], parameters: frozenset[str]
    ) -> int | None:
        in_ranges = all(name.endswith(".safetensors") for name in names)
        if not in_ranges or format_of_files(folder.files) is not None:
            return None
        files = [
            RangedFile(
                f"{folder.uri}/{name}",
                folder.files[name].size,
                partial(read_bytes, place, folder, name),
            )
            for name in names
        ]
        try:
            headers = [header_of(file) for file in files]
            tensors = [name for header in headers for name in header.tensors]
            plain = without_wrappers(tensors, folder.uri)
        except CheckpointError:  # the preflight has said so
            return None
        mapped = renames(self._module, frozenset(plain.values()))
        if mapped is None:
            return None
        chosen = sources(self._module, mapped, parameters)
        return bytes_to_read(headers, {name for name in plain if plain[name] in chosen})

    @cached_property
    def _module(self) -> PreTrainedModel:
        job = self._prepared.job
        trusted = job.analysis.trust_remote_code
        folder = metadata_folder(listed_folder(job.architecture), code=trusted)
        return without_memory(folder, trusted)
