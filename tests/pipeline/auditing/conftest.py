"""The servers and the checkpoints of the tests of `pipeline.checkpoints`."""

from tests.pipeline.checkpoints.conftest import hub, s3, s3_server, write_large

__all__ = ["hub", "s3", "s3_server", "write_large"]
