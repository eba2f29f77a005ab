"""Buckets that anyone may read: without credentials, requests are not signed.

moto allows requests without a signature to read what its ACL makes public, as S3 does.
"""

import pytest
from s3fs import S3FileSystem

from pipeline.checkpoints import list_checkpoints
from pipeline.checkpoints.fetch import Copies
from pipeline.errors import CheckpointError, InputError
from tests.pipeline.checkpoints.servers import Faults
from tests.pipeline.checkpoints.test_s3 import upload

NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture
def public(s3, tmp_path, write_checkpoint, monkeypatch):
    """Start a server with a run, and take all credentials away."""
    for step in (1, 2):
        write_checkpoint(tmp_path / f"run/step-{step}", step)
    public = S3FileSystem(use_listings_cache=False, s3_additional_kwargs={"ACL": "public-read"})
    public.put(str(tmp_path / "run"), "runs/a", recursive=True)
    upload(tmp_path / "run", "runs/private")
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()
    s3.forget()
    return s3, "s3://runs/a"


def signed(server) -> set[bool]:
    return {"Authorization" in headers for _, _, headers in server.requests}


def test_a_public_bucket_is_read_without_credentials(public):
    server, uri = public
    checkpoints = list_checkpoints(uri)
    assert [c.step for c in checkpoints] == [1, 2]
    with Copies().of(checkpoints[0]) as copy:
        assert copy.checkpoint.digest and copy.parts.files
    assert signed(server) == {False}


def test_a_bucket_that_denies_is_one_sentence_on_credentials(public):
    server, uri = public
    private, _ = list_checkpoints("s3://runs/private")  # moto allows anyone to list
    expected = r"model.safetensors: access is denied: no credentials were found"
    with pytest.raises(CheckpointError, match=expected), Copies().of(private) as copy:
        _ = copy.parts
    server.faults = Faults(first=[403])
    with pytest.raises(InputError, match=r"access is denied: no credentials were found.*AWS_PROF"):
        list_checkpoints(uri)


@pytest.mark.parametrize("name", ["AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE"])
def test_credentials_are_not_sent_if_that_is_asked_for(s3, tmp_path, write_checkpoint, name,
                                                       monkeypatch):  # fmt: skip
    write_checkpoint(tmp_path / "run/step-1")
    uri = upload(tmp_path / "run")
    S3FileSystem.clear_instance_cache()
    for value, is_signed in (("false", True), ("true", False)):
        monkeypatch.setenv(name, value)
        s3.forget()
        assert len(list_checkpoints(uri)) == 1
        assert signed(s3) == {is_signed}
    s3.faults = Faults(first=[403])
    with pytest.raises(InputError, match=f"since {name} is set: unset it"):
        list_checkpoints(uri)
