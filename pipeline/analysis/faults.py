"""The faults of a request, gathered so that all of them are told at once."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError


@dataclass(frozen=True)
class Fault:
    """One fault. about: the part of the analysis or the machine, as in "inputs.text"."""

    about: str
    message: str


class RefusedError(InputError):
    """A request with one or more faults; its message has a line for each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(*(fault.message for fault in self.faults))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.faults,)  # by default it would be made from its lines


class Faults:
    """A list of faults that grows while the parts of a request are tried."""

    def __init__(self) -> None:
        self._found: dict[str, Fault] = {}
        self._unreachable: dict[str, OSError] = {}  # by message

    @property
    def found(self) -> tuple[Fault, ...]:
        """The faults, in the order in which they were found; each message once."""
        return tuple(self._found.values())

    def add(self, *faults: Fault) -> None:
        """Add faults."""
        for fault in faults:
            self._found.setdefault(fault.message, fault)

    def extend(self, others: "Faults") -> None:
        """Add the faults that others have found."""
        self.add(*others.found)
        self._unreachable |= others._unreachable

    @contextmanager
    def gathered(self, about: str) -> Iterator[None]:
        """Keep an InputError or OSError of the block as a fault, and go on after the block."""
        try:
            yield
        except RefusedError as error:
            self.add(*error.faults)
        except OSError as error:  # of a storage that does not answer
            self._unreachable.setdefault(str(error), error)
            self.add(Fault(about, str(error)))
        except InputError as error:
            self.add(*(Fault(about, line) for line in _sentences(error)))

    @property
    def unreachable(self) -> OSError | None:
        """The error of a storage that does not answer, where nothing else is wrong.

        It may answer later: the request itself may be right.
        """
        if self._unreachable.keys() != self._found.keys():
            return None
        return next(iter(self._unreachable.values()), None)

    def refuse(self) -> None:
        """Raise RefusedError if there is a fault; an OSError as it was where that is all."""
        if error := self.unreachable:
            raise error
        if self._found:
            raise RefusedError(self.found)


def _sentences(error: InputError) -> list[str]:
    """Return a sentence for each fault that an error is about."""
    first, *further = error.lines
    if not further:
        return [first]
    where = first.rpartition(": ")[0]  # before the number of faults
    return [f"{where}: {line.strip()}" for line in further]
