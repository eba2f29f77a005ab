"""Orchestration: Prefect flows that compute on a pool of Ray actors; and the command line."""

import os
from pathlib import Path

from flows import environment
from flows.log_text import clean_records

environment.prepare()

# Prefect and Ray read these variables when they are imported, and the servers that they start
# inherit them. Values that the user has set take precedence.
_ENVIRONMENT = {
    # An embedded server ends with its flow and loses the records of an incomplete batch: with small
    # batches that are written every second, all task runs are recorded soon after they end.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    # A fraction of a second would be rounded down to 0, which makes the recorder a busy loop.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "100",
    # A run's own server asks for the user's secret (`flows.prefect_server`): Prefect itself starts
    # none, because that would answer everybody.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    # The default of 20 s is too short where torch and Ray start at the same time on few cores.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The handlers that `flows.worker_logs` adds also get records that are logged outside of a flow.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # While the server is unreachable, Prefect keeps the events and sends them later, but logs an
    # error for each of them.
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    # The server recognises a killed run by missing heartbeats; see flows/automations.yaml.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # No usage statistics are sent to anybody.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Deduplication holds back repeated lines and prints them after our own last line.
    "RAY_DEDUP_LOGS": "0",
    # By default Ray hides all GPUs from an actor with `gpus: 0`. With `device: cuda`, `gpus: 0`
    # means that Ray does not schedule by GPUs, and the worker still uses one.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
if not os.environ.get("PREFECT_API_URL"):
    # Prefect's settings treat an empty value as unset, but its events client as an address.
    os.environ.pop("PREFECT_API_URL", None)
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
if "RAY_ADDRESS" in os.environ and (
    any(name in os.environ for name in _TOKENS) or Path("~/.ray/auth_token").expanduser().exists()
):
    # A client presents its token to an existing cluster only in this mode.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
clean_records()
