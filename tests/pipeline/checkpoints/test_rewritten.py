"""The digest is that of the bytes that were read, even if they are overwritten meanwhile."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from pipeline.checkpoints import Checkpoint, fetch_local, fetch_remote, list_checkpoints
from pipeline.checkpoints.cache import remember
from pipeline.checkpoints.configs import read_config
from pipeline.checkpoints.digests import sha256_of
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.places import place_of
from pipeline.errors import ChangedError, CheckpointError, InputError
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.conftest import CONFIG, folder_of, tensors
from tests.pipeline.checkpoints.servers import ProxyHandler
from tests.pipeline.checkpoints.test_s3 import upload


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def run(tmp_path, write_checkpoint) -> Path:
    write_checkpoint(tmp_path / "run/step-5", 5)
    write_checkpoint(tmp_path / "other/step-5", 77)
    return tmp_path / "run"


def weights_of(run: Path) -> Path:
    return run / "step-5/model.safetensors"


def other_of(run: Path) -> Path:
    return run.parent / "other/step-5/model.safetensors"


def test_a_restored_time_does_not_bring_back_a_digest(run):
    file = weights_of(run)
    before = sha256_of(file)
    status = file.stat()
    file.write_bytes(other_of(run).read_bytes())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert sha256_of(file) == sha256(file) != before


def test_a_file_written_right_after_its_digest_has_another_state(run):
    """Both writes are within one tick of the kernel's clock, by which states are distinguished."""
    file, content = weights_of(run), [weights_of(run).read_bytes(), other_of(run).read_bytes()]
    for number in range(20):
        file.write_bytes(content[number % 2])
        sha256_of(file)
        file.write_bytes(content[(number + 1) % 2])
        assert sha256_of(file) == sha256(file)


def test_what_changed_since_the_listing_has_the_digest_of_what_is_read(run):
    with Copies().of(list_checkpoints(str(run))[0]) as copy:
        before = copy.checkpoint.digest
    (listed,) = list_checkpoints(str(run))
    assert listed.digest == before
    shutil.copy(other_of(run), weights_of(run))
    with Copies().of(listed) as copy:
        weights = copy.read(read_weights)
        assert copy.checkpoint.digest == sha256(other_of(run))
    assert (weights["a.weight"].numpy() == tensors(77)["a.weight"]).all()


def rewriting(run: Path, times: int) -> Callable[[Path], object]:
    """Return a `read_weights` whose first calls replace the file by the other one meanwhile."""
    left = [times]

    def read(folder: Path) -> object:
        found = read_weights(folder)
        if left[0]:
            left[0] -= 1
            shutil.copy(other_of(run), weights_of(run))
        return found

    return read


def test_what_changes_while_it_is_read_is_read_again(run):
    with Copies().of(list_checkpoints(str(run))[0]) as copy:
        weights = copy.read(rewriting(run, times=1))
        assert copy.checkpoint.digest == sha256(other_of(run))
    assert (weights["a.weight"].numpy() == tensors(77)["a.weight"]).all()


def test_what_never_keeps_still_is_named(run, monkeypatch):
    monkeypatch.setattr(fetch_local, "_WAITS", (0.0, 0.0, 0.0))
    with (
        pytest.raises(CheckpointError, match="step-5: its weights were changed while they were"),
        Copies().of(list_checkpoints(str(run))[0]) as copy,
    ):
        copy.read(rewriting(run, times=99))


def test_what_is_torn_while_it_is_rewritten_is_read_again(run):
    whole, file = weights_of(run).read_bytes(), weights_of(run)
    (listed,) = list_checkpoints(str(run))
    reads = []

    def read(folder: Path) -> object:
        reads.append(folder)
        if len(reads) > 1:
            return read_weights(folder)
        file.write_bytes(whole[: len(whole) // 2])
        try:
            return read_weights(folder)
        finally:
            file.write_bytes(whole)

    with Copies().of(listed) as copy:
        copy.read(read)
        assert copy.checkpoint.digest == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize("what", ["folder", "weights"])
def test_a_checkpoint_that_vanished_is_said_to_be_gone(run, what):
    (listed,) = list_checkpoints(str(run))
    if what == "folder":
        shutil.rmtree(run / "step-5")
    else:
        weights_of(run).unlink()
    expected = {"folder": "is gone since it was listed", "weights": "holds no weights"}[what]
    with pytest.raises(CheckpointError, match=rf"step-5: {expected}"), Copies().of(listed) as copy:
        copy.read(read_weights)


def test_a_checkpoint_that_vanished_from_s3_is_said_to_be_gone(s3, run):
    (listed,) = list_checkpoints(upload(run))
    S3FileSystem(use_listings_cache=False).rm("runs/a/step-5", recursive=True)
    with (
        pytest.raises(CheckpointError, match=r"s3://runs/a/step-5: is gone since it was listed"),
        Copies().of(listed) as copy,
    ):
        copy.read(read_weights)


# S3: what changed, and what was damaged on its way


def put(file: Path, place: str) -> None:
    S3FileSystem(use_listings_cache=False).put(str(file), place)


def test_an_object_replaced_since_the_listing_has_its_own_digest(s3, run):
    uri = upload(run)
    with Copies().of(list_checkpoints(uri)[0]) as copy:
        copy.read(read_weights)
    (listed,) = list_checkpoints(uri)
    assert listed.digest == sha256(weights_of(run))
    put(other_of(run), "runs/a/step-5/model.safetensors")
    with Copies().of(listed) as copy:
        weights = copy.read(read_weights)
        assert copy.checkpoint.digest == sha256(other_of(run))
    assert (weights["a.weight"].numpy() == tensors(77)["a.weight"]).all()


def test_weights_are_asked_for_by_the_etag_that_was_listed(s3, run):
    (listed,) = list_checkpoints(upload(run))
    s3.forget()
    with Copies().of(listed) as copy:
        copy.read(read_weights)
    asked = [
        {name.lower(): value for name, value in headers.items()}
        for verb, path, headers in s3.requests
        if verb == "GET" and "model.safetensors" in path
    ]
    md5 = hashlib.md5(weights_of(run).read_bytes()).hexdigest()
    assert [headers["if-match"].strip('"') for headers in asked] == [md5]


def test_an_object_replaced_while_it_is_fetched_is_fetched_again(s3, run, monkeypatch):
    uri = upload(run)
    (listed,) = list_checkpoints(uri)
    real, replaced = fetch_remote.weight_parts, []

    def replacing(place, folder):
        parts = real(place, folder)
        if not replaced:
            replaced.append(put(other_of(run), "runs/a/step-5/model.safetensors"))
        return parts

    monkeypatch.setattr(fetch_remote, "weight_parts", replacing)
    with Copies().of(listed) as copy:
        copy.read(read_weights)
        assert copy.checkpoint.digest == sha256(other_of(run))


def flipping(
    monkeypatch: pytest.MonkeyPatch, name: str, times: int, checksums: bool = False
) -> list[str]:
    """Flip one bit of the body in the first answers that send an object of this name.

    checksums: the server sends those that the client compares by itself.
    """
    flipped: list[str] = []
    answer = ProxyHandler.answer

    def damaged(self, status, body, headers, fault):
        path = self.path.partition("?")[0]
        sends = self.command == "GET" and path.endswith(name) and body
        if sends and len(flipped) < times:
            flipped.append(path)
            body = body[:-1] + bytes([body[-1] ^ 1])
        if not checksums:
            headers = {k: v for k, v in headers.items() if "-checksum-" not in k.lower()}
        answer(self, status, body, headers, fault)

    monkeypatch.setattr(ProxyHandler, "answer", damaged)
    return flipped


@pytest.mark.parametrize("checksums", [False, True])
def test_one_flipped_bit_in_fetched_weights_is_fetched_again(s3, run, monkeypatch, checksums):
    (listed,) = list_checkpoints(upload(run))
    flipped = flipping(monkeypatch, "model.safetensors", 1, checksums)
    with Copies().of(listed) as copy:
        weights = copy.read(read_weights)
        assert copy.checkpoint.digest == sha256(weights_of(run))
    assert len(flipped) == 1
    assert (weights["b.weight"].numpy() == tensors(5)["b.weight"]).all()


def test_a_bit_that_the_client_finds_each_time_is_named(s3, run, monkeypatch):
    (listed,) = list_checkpoints(upload(run))
    flipping(monkeypatch, "model.safetensors", times=99, checksums=True)
    with (
        pytest.raises(CheckpointError, match=r"^s3://runs/a/step-5/model.safetensors: .*checksum"),
        Copies().of(listed) as copy,
    ):
        copy.read(read_weights)


def test_bits_that_are_flipped_each_time_are_named(s3, run, monkeypatch):
    (listed,) = list_checkpoints(upload(run))
    md5 = hashlib.md5(weights_of(run).read_bytes()).hexdigest()
    flipping(monkeypatch, "model.safetensors", times=99)
    with (
        pytest.raises(CheckpointError, match=rf"model.safetensors: its md5 is \w+, expected {md5}"),
        Copies().of(listed) as copy,
    ):
        copy.read(read_weights)


def test_one_flipped_bit_in_a_config_is_read_again(s3, run, monkeypatch):
    (listed,) = list_checkpoints(upload(run))
    flipped = flipping(monkeypatch, "config.json", times=1)
    assert read_config(listed.uri) == CONFIG
    assert len(flipped) == 1


def test_an_etag_of_parts_is_not_held_to_be_a_sum(s3, run):
    """Nor is one of an upload in a single part, which ends in "-1"."""
    filesystem = S3FileSystem(use_listings_cache=False)
    uri = upload(run)
    key = {"Bucket": "runs", "Key": "a/step-5/model.safetensors"}
    begun = filesystem.call_s3("create_multipart_upload", **key)["UploadId"]
    part = filesystem.call_s3(
        "upload_part", **key, UploadId=begun, PartNumber=1, Body=weights_of(run).read_bytes()
    )
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    filesystem.call_s3("complete_multipart_upload", **key, UploadId=begun, MultipartUpload=parts)
    (listed,) = list_checkpoints(uri)
    file = place_of(uri).files_of([listed.uri])[0]["model.safetensors"]
    assert str(file.identity).split()[1].endswith("-1")
    with Copies().of(listed) as copy:
        copy.read(read_weights)
        assert copy.checkpoint.digest == sha256(weights_of(run))


@pytest.mark.parametrize(
    ("facts", "sums"),
    [
        ({"ETag": '"' + "a" * 32 + '"'}, [("md5", "a" * 32)]),
        ({"ETag": '"' + "a" * 32 + '-2"'}, []),
        ({"ETag": '"' + "a" * 32 + '"', "ServerSideEncryption": "AES256"}, [("md5", "a" * 32)]),
        ({"ETag": '"' + "a" * 32 + '"', "ServerSideEncryption": "aws:kms"}, []),
        ({"ETag": '"' + "a" * 32 + '"', "SSECustomerAlgorithm": "AES256"}, []),
        ({"ETag": '"x-2"', "ChecksumCRC32": "y/Q5Jg=="}, [("crc32", "cbf43926")]),
        ({"ETag": '"x-2"', "ChecksumCRC32": "y/Q5Jg==-2"}, []),
        ({"ETag": '"x-2"', "ChecksumCRC32": "y/Q5Jg==", "ChecksumType": "COMPOSITE"}, []),
    ],
)
def test_which_sums_of_an_object_are_of_its_content(facts, sums):
    from pipeline.checkpoints.s3_checksums import content_sums, sum_of

    assert list(content_sums("bucket", facts)) == sums
    assert list(content_sums("bucket--x-s3", {"ETag": '"' + "a" * 32 + '"'})) == []
    assert sum_of([b"12345", b"6789"], "crc32") == "cbf43926"  # the check value of CRC-32


def test_a_sum_that_was_remembered_wrongly_gives_way_to_what_came_twice(s3, run):
    uri = upload(run)
    (listed,) = list_checkpoints(uri)
    file = place_of(uri).files_of([listed.uri])[0]["model.safetensors"]
    remember("digests", str(file.identity), b"0" * 64)
    with Copies().of(Checkpoint(5, listed.uri)) as copy:
        copy.read(read_weights)
        assert copy.checkpoint.digest == sha256(weights_of(run))


def test_a_file_that_changes_while_it_is_summed_is_said_to(run, monkeypatch):
    from pipeline.checkpoints import digests

    read = digests.read_sha256

    def slow(file: Path) -> str:
        found = read(file)
        shutil.copy(other_of(run), file)
        return found

    monkeypatch.setattr(digests, "read_sha256", slow)
    with pytest.raises(ChangedError, match="was changed while it was read"):
        sha256_of(weights_of(run))
    monkeypatch.undo()
    assert sha256_of(weights_of(run)) == sha256(other_of(run))


def test_a_conversion_of_a_file_that_changes_meanwhile_is_not_kept(tmp_path, monkeypatch):
    from pipeline.checkpoints import conversion, foreign

    file = tmp_path / "500.pth"
    file.write_bytes(b"old")

    def convert(_: Path, files: list[Path], given: object, kept: Path, layout: object) -> None:
        kept.mkdir(parents=True)
        file.write_bytes(b"new bytes")

    monkeypatch.setattr(conversion, "convert", convert)
    with pytest.raises(InputError, match="was changed while it was read"):
        foreign.ordinary_run(str(tmp_path))


def test_an_object_of_several_parts_is_put_together(s3, run, monkeypatch):
    from pipeline.checkpoints import s3 as place

    monkeypatch.setattr(place, "_PART", 100)
    (listed,) = list_checkpoints(upload(run))
    with Copies().of(listed) as copy:
        assert sha256(folder_of(copy) / "model.safetensors") == sha256(weights_of(run))
        assert len(s3.paths(containing="model.safetensors")) > 1


def test_a_file_that_is_written_while_its_digest_is_taken_is_tried_again(run, monkeypatch):
    from pipeline.checkpoints import digests

    real, changed = digests.read_sha256, []

    def once(file: Path) -> str:
        found = real(file)
        if not changed:
            changed.append(shutil.copy(other_of(run), file))
        return found

    monkeypatch.setattr(digests, "read_sha256", once)
    with Copies().of(list_checkpoints(str(run))[0]) as copy:
        assert copy.checkpoint.digest == sha256(other_of(run))
