"""How a failed start is reported: on standard error, or as a record that a collector parses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.receiver import Receiver

FAULT = "cannot use the storage: File exists ("


@pytest.mark.parametrize(
    ("format", "level", "is_record"),
    [("json", "info", True), ("json", "off", False), ("console", "info", False)],
)
def test_faults_are_printed_for_a_person_or_logged_for_a_collector(
    tmp_path: Path, format: str, level: str, is_record: bool
) -> None:
    file = tmp_path / "file"
    file.touch()
    receiver = Receiver(
        tmp_path,
        OXIDICOM_FILES_ROOT=str(file),
        OXIDICOM_LOG_FORMAT=format,
        OXIDICOM_LOG_LEVEL=level,
    )
    receiver.launch()
    assert receiver.wait() == 1
    *others, last = receiver.lines
    if is_record:
        record = json.loads(last)
        assert (record["level"], record["message"]) == ("ERROR", "cannot start")
        assert record["fault"].startswith(FAULT)
    else:
        assert last.startswith(f"oxidicom: {FAULT}")
    assert not any(FAULT in line for line in others)
