"""`ontogeny doctor`: check everything that a run depends on; a failed check says what to do."""

from collections.abc import Callable, Iterable, Iterator

from flows.doctor import clocks, disks, environment, request, services, versions
from flows.doctor.check import SECONDS, Check, call_within, reason
from flows.server import use_persistent_server
from pipeline.config import Analysis

__all__ = ["Check", "run_checks"]


def run_checks(analysis: Analysis | None = None) -> list[Check]:
    """Run all checks; with an analysis, also all that its run would refuse.

    None of them hangs or ends the others.
    """
    use_persistent_server()
    of_request = request.check_request(analysis) if analysis else []
    checks = [one for name, check in _all(analysis) for one in _limited(name, check)]
    # A fault of the machine may be one of the request too, and Ray's address is tried by both.
    told = {one.message for one in of_request}
    told_of_ray = any(one.name == "Ray" for one in of_request)
    kept = [c for c in checks if c.message not in told and not (c.name == "Ray" and told_of_ray)]
    return [*kept, *of_request]


def _all(analysis: Analysis | None) -> Iterator[tuple[str, Callable[[], Iterable[Check]]]]:
    """Yield all checks but those of an analysis, with a name for each."""
    on_hub = analysis is not None and analysis.checkpoints.startswith("hf://")
    workers = analysis.workers if analysis else None
    yield "versions", versions.check_libraries
    yield "packages", environment.check_packages
    yield "environment", environment.check_environment
    yield "shared memory", environment.check_shared_memory
    yield "secret", environment.check_secret
    yield "ports", environment.check_ports
    yield "Prefect", lambda: [services.check_prefect()]
    yield "Ray", lambda: [services.check_ray(workers)]
    yield "hub token", lambda: [services.check_hub_token(on_hub)]
    yield "disks", lambda: disks.check_disks(analysis)
    yield "clock", lambda: clocks.check_clocks(analysis)


def _limited(name: str, check: Callable[[], Iterable[Check]]) -> list[Check]:
    """Return the result of a check; a failed one if it raises, or does not end in time."""
    try:
        return call_within(2 * SECONDS, lambda: list(check()))
    except Exception as error:
        return [Check(name, False, f"could not be checked: {reason(error)}")]
