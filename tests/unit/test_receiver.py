"""A receiver's start and end, where the machine is not as it must be."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom.app import takeover
from oxidicom.app.receiver import Receiver
from oxidicom.errors import OperatorError
from oxidicom.settings import load
from oxidicom.store import executors


async def test_a_journal_that_cannot_be_listed_is_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(tmp_path / ".oxidicom/journal"))

    monkeypatch.setattr(takeover, "recover", fail)
    settings, _ = load({"OXIDICOM_FILES_ROOT": str(tmp_path)})
    with pytest.raises(OperatorError, match="cannot use the storage: Permission denied"):
        await Receiver(settings).start()


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("remote", ["files", "state", None])
async def test_writes_inline_only_where_files_and_journal_are_both_on_local_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str | None
) -> None:
    nfs, ext4 = 0x6969, 0xEF53

    def filesystem_type(fd: int) -> int:
        return nfs if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == remote else ext4

    monkeypatch.setattr(executors, "filesystem_type", filesystem_type)
    folders = {"OXIDICOM_FILES_ROOT": "files", "OXIDICOM_STATE_DIR": "state"}
    settings, _ = load({name: str(tmp_path / folder) for name, folder in folders.items()})
    for folder in folders.values():
        (tmp_path / folder).mkdir()
    made = executors.make_executors(settings, 1)
    assert made.policy.decide(0.0) is (remote is None)
    assert sys.getswitchinterval() < 0.001, "writer threads beside a busy loop"
