"""End this process when its parent has ended, also if that was killed."""

import os
import signal
import threading
import time


def end_with(parent: int, seconds: float) -> None:
    """Terminate this process when it is no longer a child of that process.

    seconds: how long it may take to end in order; then it ends at once.
    """
    threading.Thread(target=_wait, args=(parent, seconds), daemon=True).start()


def _wait(parent: int, seconds: float) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds)
    os._exit(1)
