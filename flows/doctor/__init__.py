"""Whether all that a run depends on is in order: each finding is good, or says what to do."""

from flows.doctor import clocks, places, services, versions
from flows.doctor.finding import Finding
from flows.server import use_standing_server
from pipeline.config import Analysis

__all__ = ["Finding", "examine"]


def examine(analysis: Analysis | None = None) -> list[Finding]:
    """Look at everything; with an analysis, also at its places and at room for its workers."""
    use_standing_server()
    found = [*versions.of_libraries(), services.of_prefect()]
    found.append(services.of_ray(analysis.workers if analysis else None))
    if analysis:
        found += [
            places.of_checkpoints(analysis.checkpoints, analysis.model),
            places.of_store(analysis.store),
        ]
    on_hub = analysis is not None and analysis.checkpoints.startswith("hf://")
    found.append(services.of_hub_token(on_hub))
    return [*found, *places.of_disks(analysis), *clocks.of_servers(analysis)]
