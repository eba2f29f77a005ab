"""The log records of one call of a worker, among those of others."""

import logging
import threading

import torch

from flows.worker_logs import capture_records
from pipeline.engine.threads import in_threads

LOG = logging.getLogger("pipeline.engine")


def test_records_of_the_threads_of_a_call_are_its_own_and_no_others() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    both = threading.Barrier(2, timeout=60)

    def work(part: int) -> None:
        both.wait()  # so that each part has a thread of its own
        LOG.warning("part %d", part)

    try:
        with capture_records() as records:
            in_threads(work, [0, 1], torch.device("cpu"))
            other = threading.Thread(target=LOG.warning, args=("of another call",))
            other.start()
            other.join()
            LOG.info("end")
        LOG.warning("after the call")
    finally:
        torch.set_num_threads(before)
    messages = [record.getMessage() for record in records]
    assert sorted(messages[:2]) == ["part 0", "part 1"] and messages[2:] == ["end"]
