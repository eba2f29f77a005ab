"""An S3 server that counts requests, for the tests of the store."""

from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from tests.pipeline.checkpoints.servers import Faults, Proxy

BUCKET = "stores"


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Start an S3 server; yield its host and port."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def proxy(moto: str) -> Iterator[Proxy]:
    with Proxy(moto) as server:
        yield server


@pytest.fixture
def s3(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Yield a proxy to an S3 server with an empty bucket; set the environment to use it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key-of-these-tests")
    proxy.faults = Faults()
    S3FileSystem.clear_instance_cache()
    filesystem = S3FileSystem(use_listings_cache=False)
    if filesystem.exists(BUCKET):
        filesystem.rm(BUCKET, recursive=True)
    filesystem.mkdir(BUCKET)
    proxy.forget()
    yield proxy
    proxy.faults = Faults()
    S3FileSystem.clear_instance_cache()
