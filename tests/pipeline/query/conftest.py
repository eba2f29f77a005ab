"""The S3 server of the store's tests, for those of queries."""

from tests.pipeline.store.conftest import moto, proxy, s3

__all__ = ["moto", "proxy", "s3"]
