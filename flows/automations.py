"""The automations of this package on a Prefect server: created once, and updated after that."""

from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound

from flows.server import require_persistent_server
from pipeline.errors import InputError

_FILE = Path(__file__).with_suffix(".yaml")
_NOTIFICATION = "send-notification"
_WEBHOOK = "webhook"  # the type of block that is called instead of notified


def deploy_automations(notify: str | None) -> dict[str, str]:
    """Create or update the automations; return what was done with each, by name.

    notify: TYPE/NAME of the block to which messages are sent, such as "slack-webhook/team". Without
    it, an automation that sends messages is left out, or as it is if it is there. One that the user
    has paused stays paused. Raises InputError if there is no such block or no persistent server.
    """
    require_persistent_server("automations need")
    definitions = yaml.safe_load(_FILE.read_text(encoding="utf-8"))["automations"]
    with get_client(sync_client=True) as client:
        block = _block(client, notify) if notify else None
        return {one["name"]: _deploy(client, one, block) for one in definitions}


def _deploy(
    client: SyncPrefectClient, definition: dict[str, Any], block: BlockDocument | None
) -> str:
    present = client.read_automations_by_name(definition["name"])
    if any(action["type"] == _NOTIFICATION for action in definition["actions"]):
        if block is None:
            return "left as it is" if present else "left out: name a block by --notify TYPE/NAME"
        actions = [_sent_to(block, action) for action in definition["actions"]]
        definition = {**definition, "actions": actions}
    return _create_or_update(client, AutomationCore.model_validate(definition), present)


def _create_or_update(
    client: SyncPrefectClient, wanted: AutomationCore, present: list[Automation]
) -> str:
    if not present:
        client.create_automation(wanted)
        return "created"
    first, *others = present
    client.update_automation(first.id, wanted.model_copy(update={"enabled": first.enabled}))
    for twice in others:  # made by `prefect automation create`, which does not look for them
        client.delete_automation(twice.id)
    return "updated"


def _block(client: SyncPrefectClient, notify: str) -> BlockDocument:
    kind, _, name = notify.partition("/")
    try:
        block = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise InputError(
            f"--notify {notify}: there is no such block: create it in the UI (Blocks), and give "
            "it as TYPE/NAME, as in webhook/team or slack-webhook/team"
        ) from None
    capabilities = block.block_schema.capabilities if block.block_schema else []
    if kind != _WEBHOOK and "notify" not in capabilities:
        raise InputError(f"--notify {notify}: a block of this type sends no messages")
    return block


def _sent_to(block: BlockDocument, action: dict[str, Any]) -> dict[str, Any]:
    if action["type"] != _NOTIFICATION:
        return action
    if block.block_type is not None and block.block_type.slug == _WEBHOOK:
        return {"type": "call-webhook", "block_document_id": block.id, "payload": action["body"]}
    return {**action, "block_document_id": block.id}
