"""Send scalars and findings to experiment trackers, after an analysis (`log_to`)."""

from pipeline.trackers.send import Sent, send, send_results

__all__ = ["Sent", "send", "send_results"]
