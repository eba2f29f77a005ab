"""Orchestration: Prefect flows whose work is done by a pool of Ray actors; and the command."""

import os
from pathlib import Path

# Prefect and Ray read these when they are imported, the servers that they start inherit them;
# what the user has set stands.
_ENVIRONMENT = {
    # An embedded server records task runs in batches, and forgets those that are not full when
    # its flow ends: small batches, written often, are complete within a second or two.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # less becomes 0, a busy loop
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "100",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # While a server is away, events are kept to be sent again: not an error, and not for each.
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    # By its absence the server can tell a run that was killed; see examples/automations.yaml.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Nobody is told what is computed here.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # What Ray holds back to say it only once, it says at the very end.
    "RAY_DEDUP_LOGS": "0",
    # `device: cuda` with `gpus: 0` means that Ray shall not count GPUs, not that it hides them.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
if not os.environ.get("PREFECT_API_URL"):
    os.environ.pop("PREFECT_API_URL", None)  # Prefect's events take "" for an address
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
if "RAY_ADDRESS" in os.environ and (
    any(name in os.environ for name in _TOKENS) or Path("~/.ray/auth_token").expanduser().exists()
):
    # At an address that it is given, Ray shows its token only if it is told to.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
