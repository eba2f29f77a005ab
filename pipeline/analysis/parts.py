"""Checkpoints of which only the weights that some measures read are read.

The rows of such a measure are identified by the digest of the whole checkpoint, where that is known
without reading it: the storage has it, or it was read before. Else by the digest of the tensors
that the measure reads, see `SomeWeights.digest`. This one is kept as well, by what identifies the
files (on this machine their state, on S3 their ETags), so that planning reads nothing again.
"""

import hashlib
from collections.abc import Collection

from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.fetch_facts import identity_of
from pipeline.checkpoints.places import listed_folder
from pipeline.checkpoints.stored import known_sha256, remember_sha256

# The part of a row's details that says so, where its digest is not that of the whole checkpoint.
DIGEST_OF = {"digest_of": "the weights that the measure reads"}


def known_digest(identity: str | None, parameters: Collection[str]) -> str | None:
    """Return the digest of some parameters of weights with an identity, if it is known."""
    return None if identity is None else known_sha256(_key(identity, parameters))


def remember_digest(identity: str | None, parameters: Collection[str], digest: str) -> None:
    """Keep the digest of some parameters of weights with an identity."""
    if identity is not None:
        remember_sha256(_key(identity, parameters), digest)


def known_digest_of(checkpoint: Checkpoint, parameters: Collection[str]) -> str | None:
    """Return the digest of a checkpoint for a measure that reads some parameters, if it is known.

    By its listing; that of the whole checkpoint, where that is known.
    """
    if checkpoint.digest is not None:
        return checkpoint.digest
    return known_digest(identity_of(listed_folder(checkpoint)), parameters)


def _key(identity: str, parameters: Collection[str]) -> str:
    names = hashlib.sha256("\n".join(sorted(parameters)).encode()).hexdigest()
    return f"some weights {names}\n{identity}"
