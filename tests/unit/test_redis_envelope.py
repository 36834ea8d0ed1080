"""The Redis envelope compared with that of the reference (decision 33)."""

from __future__ import annotations

import base64
import json
from typing import Any

from oxidicom.notify.celery_message import encode
from oxidicom.notify.redis import envelope
from tests.support.registrations import VECTOR, registration

TASK_ID = "3b241101-e2bb-4255-8caf-4136c566a962"
MESSAGE = encode(registration(), "main2", TASK_ID, "gen7@here")


def written() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(envelope(MESSAGE))
    return found


def test_the_envelope_has_the_fields_of_the_reference() -> None:
    reference = VECTOR["redis"]["json"]
    ours = written()
    assert ours.keys() == reference.keys()
    assert ours["properties"].keys() >= reference["properties"].keys()
    # Celery's own client has no `meth`, a left-over of its protocol's first draft.
    assert ours["headers"].keys() >= reference["headers"].keys() - {"meth"}
    assert json.loads(base64.b64decode(ours["body"])) == VECTOR["body"]
    assert ours["headers"] == MESSAGE.headers


def test_the_delivery_info_names_the_queue() -> None:
    properties = written()["properties"]
    assert properties["delivery_info"] == {"exchange": "", "routing_key": "main2"}
    assert properties["priority"] == 0, "any other is another list, by its name"


def test_each_attempt_has_a_delivery_tag_of_its_own_and_the_same_task_id() -> None:
    first, second = written(), written()
    assert first["properties"].pop("delivery_tag") != second["properties"].pop("delivery_tag")
    assert first == second
    assert first["properties"]["correlation_id"] == first["headers"]["id"] == TASK_ID
