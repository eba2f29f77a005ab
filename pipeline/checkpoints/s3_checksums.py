"""The checksums that S3 has of an object's content, and the same ones of bytes that were read."""

import base64
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def content_sums(bucket: str, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the algorithm and hex value of each checksum of an object's whole content.

    An ETag is the content's MD5 unless the object was uploaded in parts, is encrypted with a key of
    the user or of KMS, or is in a directory bucket (Amazon S3, API reference, `Object`). A checksum
    of the parts' checksums ends in "-" and their number.
    """
    etag = facts["ETag"].strip('"')
    encrypted = str(facts.get("ServerSideEncryption", "")).startswith("aws:kms")
    encrypted = encrypted or "SSECustomerAlgorithm" in facts
    if re.fullmatch(r"[0-9a-f]{32}", etag) and not encrypted and not bucket.endswith("--x-s3"):
        yield "md5", etag
    for name in ("sha256", "sha1", "crc32"):
        found = facts.get(f"Checksum{name.upper()}", "")
        if found and "-" not in found and facts.get("ChecksumType") != "COMPOSITE":
            yield name, base64.b64decode(found).hex()


def sum_of(pieces: Iterable[bytes], name: str) -> str:
    """Return the hex value of a checksum of bytes. name: crc32, or an algorithm of hashlib."""
    if name == "crc32":
        crc = 0
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        return f"{crc:08x}"
    digest = hashlib.new(name, usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def sum_of_file(file: Path, name: str) -> str:
    """Return the hex value of a checksum of a file; see `sum_of`."""
    with file.open("rb") as stream:
        return sum_of(iter(lambda: stream.read(2**20), b""), name)
