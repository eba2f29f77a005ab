"""Secrets of addresses are found, and left out of text."""

import pickle
import time

import pytest

from pipeline.addresses import faults_within, require_no_secret
from pipeline.errors import CheckpointError, DamagedError, InputError, first_line
from pipeline.redaction import redacted, secret_in

WITH_SECRETS = {
    "s3://KEY:hush@bucket/x": "credentials",
    "s3://KEY:hu/sh@bucket/x": "credentials",
    "s3://hush@bucket/x": "credentials",
    "S3://KEY:hush@bucket": "credentials",
    "file:///x/s3://KEY:hush@bucket": "credentials",
    "simplecache::s3://KEY:hush@bucket/x": "credentials",
    "s3:///KEY:hush@bucket": "credentials",
    "s3:/KEY:hush@bucket/x": "credentials",
    "https://user:hush@host:8080/x": "credentials",
    "https://user:hush%40more@host/x": "credentials",
    "https%3A%2F%2Fuser:hush@host": "credentials",
    "hf://hf_hushhushhushhushhush@owner/name": "credentials",
    "hf://owner/name@hf_hushhushhushhushhush": "credentials",
    "https://h/x?X-Amz-Signature=hush": "a signature or token",
    "https://h/x?a=1&x%2Damz%2Dsignature=hush": "a signature or token",
    "https://h/x?sv=2&sig=hush": "a signature or token",
    "https://h/x?token=hush": "a signature or token",
    "https://h/x#access_token=hush": "a signature or token",
    "https://h/x?AWSAccessKeyId=hush": "a signature or token",
    "https://h/x?api_key=hush": "a signature or token",
    "https://h/x?q=1;password=hush": "a signature or token",
}


@pytest.mark.parametrize(("address", "kind"), WITH_SECRETS.items(), ids=list(WITH_SECRETS))
def test_a_secret_is_found_and_never_repeated(address: str, kind: str) -> None:
    assert secret_in(address) == kind
    with pytest.raises(InputError, match=kind) as refused:
        require_no_secret(address)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/prefix", "hf://owner/name@step1000", "hf://owner/name@refs/pr/1", "runs/a@b",
        "https://host:8080/x@y", "/data/it's=odd?sig=x", "http://127.0.0.1:4200/api?of=us", "a:b",
        "s3://bucket/tokens=4B/step-1", "my_measures.py:Skew.text", "", "C:\\x", "x" * 100_000,
    ],
)  # fmt: skip
def test_an_address_without_a_secret_is_accepted(address: str) -> None:
    assert require_no_secret(address) == address
    assert redacted(address) == address


@pytest.mark.parametrize(
    "address", [one for one in WITH_SECRETS if "%3A%2F" not in one and "s3:/KEY" not in one]
)
def test_a_message_that_holds_an_address_loses_its_secrets_only(address: str) -> None:
    text = redacted(f'could not read "{address}" (attempt 2), see <{address}>')
    assert "hush" not in text and text.startswith('could not read "')
    assert text.count("[hidden]") >= 2 and "(attempt 2), see <" in text and text.endswith(">")


def test_errors_hold_no_secret_however_they_are_shown() -> None:
    said = "https://user:hush@h/x?X-Amz-Signature=hush cannot be read"
    for kind in (InputError, CheckpointError, DamagedError):
        error = pickle.loads(pickle.dumps(kind(said)))
        assert "hush" not in f"{error} {error!r} {error.args}" and "cannot be read" in str(error)
    assert "hush" not in first_line(OSError(said))


def test_an_error_of_several_lines_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(InputError("two faults", "  a", "  b")))
    assert error.lines == ("two faults", "  a", "  b") and str(error) == "two faults\n  a\n  b"


def test_secrets_within_values_are_named_by_their_place() -> None:
    content = {"a": [{"b": "s3://K:hush@x"}], "s3://K:hush@y": 1}
    places = [place for place, _ in faults_within(content)]
    assert sorted(places) == ["(a key)", "a.0.b"]


def test_values_within_values_are_walked_however_deep() -> None:
    """Find a secret 5,000 lists deep, and in a list that holds itself."""
    deep: list[object] = ["s3://K:hush@x"]
    for _ in range(5_000):
        deep = [deep]
    circle: list[object] = [deep]
    circle.append(circle)
    ((_, sentence),) = faults_within(circle)
    assert "credentials" in sentence


def test_long_text_takes_no_long_time() -> None:
    started = time.process_time()  # whatever else the machine does
    for text in ("a" * 300_000, "a:" * 150_000, "s3://" * 60_000, "://@" * 60_000, "?a=" * 90_000):
        secret_in(text)
        redacted(text)
    assert time.process_time() - started < 20
