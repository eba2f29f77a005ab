"""The command without its limit of seconds to end after a signal.

    python -m tests.flows.ending COMMAND …

On a busy machine it is killed at that limit before it has cleaned up.
"""

import importlib
import sys


def wait_for_the_end() -> None:
    """Let the command of this process take minutes to end after a signal."""
    module = importlib.import_module("flows.cli.app")  # its name in `flows.cli` is that of the app
    assert hasattr(module, "_SECONDS_TO_END")
    vars(module)["_SECONDS_TO_END"] = 300.0


if __name__ == "__main__":
    from flows.cli import app

    wait_for_the_end()
    app(sys.argv[1:])
