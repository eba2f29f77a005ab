"""Remove from names of tensors what wrappers of a module put before and into them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from pipeline.errors import CheckpointError

# Attributes in which wrappers keep the wrapped module, and which thus become parts of names:
# torch.compile, FSDP, activation checkpointing, and Lightning Fabric.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# DDP's attribute is a common name of a submodule too: it is removed only as a common prefix.
_OUTER_WRAPPERS = _WRAPPERS | {"module"}


def without_wrappers(names: Iterable[str], source: str) -> dict[str, str]:
    """Map each name in a file to the one it has without torch.compile, DDP and FSDP.

    `module` is removed only as a prefix of all names. Raises CheckpointError if two names become
    equal.
    """
    plain = {name: name.split(".") for name in names}
    while plain and _common_wrapper(list(plain.values())):
        plain = {name: parts[1:] for name, parts in plain.items()}
    found = {
        name: ".".join(parts[:1] + [part for part in parts[1:] if part not in _WRAPPERS])
        for name, parts in plain.items()
    }
    if len(set(found.values())) < len(found):
        refuse_doubles(found, source)
    return found


def refuse_doubles(names: Mapping[str, str], source: str) -> None:
    """Raise CheckpointError if two names of the file belong to one tensor of the module."""
    came_from: dict[str, str] = {}
    for key, name in sorted(names.items()):
        if name in came_from:
            raise CheckpointError(
                f"{source}: {came_from[name]} and {key} are two names of one tensor: keep one"
            )
        came_from[name] = key


def common_prefixes(names: Iterable[str]) -> Iterator[str]:
    """Yield what all names begin with: "", then the prefixes that end in a dot, shortest first."""
    yield ""
    parts = [name.split(".")[:-1] for name in names]
    # Of one name alone, every part would be shared.
    shared = (
        []
        if len(parts) < 2
        else [one[0] for one in takewhile(_are_equal, zip(*parts, strict=False))]
    )
    for length in range(1, len(shared) + 1):
        yield ".".join(shared[:length]) + "."


def fitting_prefix(names: Collection[str], fits: Callable[[list[str]], bool]) -> str | None:
    """Return the shortest common prefix without which the names fit; None if there is none.

    The prefix is that of an attribute in which a module keeps the model, such as `model.` or `net.`
    """
    return next(
        (one for one in common_prefixes(names) if fits([name[len(one) :] for name in names])), None
    )


def _are_equal(parts: Sequence[str]) -> bool:
    return len(set(parts)) == 1


def _common_wrapper(names: list[list[str]]) -> bool:
    """Return whether all names begin with the same wrapper and have more parts after it."""
    first = names[0][0]
    return first in _OUTER_WRAPPERS and all(len(n) > 1 and n[0] == first for n in names)
