"""The compiled targets read what their readable form reads (without sanitizers)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from oxidicom._dimse import file_name, read_store_request
from oxidicom.constants import Encoding
from tests.fuzz import build_drivers
from tests.fuzz.connection import outcome
from tests.fuzz.inputs import flags_cuts_payload
from tests.fuzz.targets import framed
from tests.unit.test_dataset_walk import read

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("drivers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFLAGS", "-O0")
        build_drivers.build(folder)
        patch.syspath_prepend(folder)
        yield import_module("fuzz_drivers")
        del sys.modules["fuzz_drivers"]


def inputs(target: str) -> list[bytes]:
    found = [file.read_bytes() for file in sorted((CORPUS / target).iterdir())]
    assert found
    return found


def test_framing(drivers: ModuleType) -> None:
    for data in inputs("framing"):
        drivers.framing(data)
        flags, _, payload = flags_cuts_payload(data)
        assert drivers.framing_read(data) == framed(payload, flags, ())


def test_walk(drivers: ModuleType) -> None:
    for data in inputs("walk"):
        drivers.walk(data)
        flags, _, payload = flags_cuts_payload(data)
        outcome = read(payload, Encoding(flags % 3))
        assert drivers.walk_read(data) == tuple(outcome)


def test_command(drivers: ModuleType) -> None:
    common = 0
    for data in inputs("command"):
        drivers.command(data)
        expected = read_store_request(data)
        assert drivers.command_read(data) == expected
        common += expected is not None
    assert common


def test_file_name(drivers: ModuleType) -> None:
    common = 0
    for data in inputs("file_name"):
        drivers.file_name(data)
        number, _, uid = data.partition(b"\\")
        expected = file_name(number, uid)
        assert drivers.file_name_read(data) == (expected and expected[1])
        common += expected is not None
    assert common


def test_any_bytes(drivers: ModuleType) -> None:
    """A real storage keeps only what was sent, on the fast and on the general path."""
    kept = 0
    for data in inputs("any_bytes"):
        drivers.any_bytes(data)
        came = [told[4] for told in drivers.any_bytes_read(data) if len(told) == 5]
        _, _, payload = flags_cuts_payload(data)
        _, files, *_ = outcome(payload, [], True, fast_path=True)
        assert isinstance(files, dict)
        for content in files.values():
            assert content.endswith(tuple(came))
            kept += 1
    assert kept
