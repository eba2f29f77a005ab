"""`ontogeny doctor`: check everything that a run depends on; a failed check says what to do."""

from flows.doctor import clocks, disks, request, services, versions
from flows.doctor.check import Check
from flows.server import use_persistent_server
from pipeline.config import Analysis

__all__ = ["Check", "run_checks"]


def run_checks(analysis: Analysis | None = None) -> list[Check]:
    """Run all checks; with an analysis, also all that its run would refuse."""
    use_persistent_server()
    checks = [*versions.check_libraries(), services.check_prefect()]
    checks.append(services.check_ray(analysis.workers if analysis else None))
    if analysis:
        checks += request.check_request(analysis)
    on_hub = analysis is not None and analysis.checkpoints.startswith("hf://")
    checks.append(services.check_hub_token(on_hub))
    return [*checks, *disks.check_disks(analysis), *clocks.check_clocks(analysis)]
