"""Which receivers are found on a machine, and how each is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import receivers
from benchmarks.receivers import Place


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DCM4CHE_HOME", raising=False)
    monkeypatch.setattr(receivers, "SYSTEM_FOLDERS", ())


def install(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return program


def place(tmp_path: Path, max_pdu: int = 131072, several: bool = False) -> Place:
    return Place(11112, tmp_path / "stored", tmp_path, max_pdu, several)


def test_a_missing_receiver_is_listed_with_what_to_install(tmp_path: Path) -> None:
    found, missing = receivers.find_receivers({}, tmp_path)
    assert {one.name for one in found} == {"oxidicom", "pynetdicom"}  # of this environment
    hints = {one.name: one.hint for one in missing}
    assert hints["dicom-rs"] == "cargo install dicom-storescp"
    assert set(hints) == {"floor", "dcmtk", "dicom-rs", "orthanc", "dcm4che"}


DCMTK = "$dcmtk: storescp v3.6.7 2022-04-22 $"


def test_two_programs_of_one_name_are_distinguished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = install(tmp_path / "dcm4che-5.31/bin", "storescp", "storescp 5.31.2")
    program = install(tmp_path / "bin", "storescp", DCMTK)
    assert receivers.dcm4che() is None
    monkeypatch.setenv("DCM4CHE_HOME", str(tmp_path / "dcm4che-5.31"))
    # Whichever comes first on the PATH.
    for path in (f"{script.parent}:{program.parent}", f"{program.parent}:{script.parent}"):
        monkeypatch.setenv("PATH", path)
        dcmtk, dcm4che = receivers.dcmtk(), receivers.dcm4che()
        assert dcmtk
        assert dcm4che
        assert dcmtk.version == "storescp v3.6.7 2022-04-22"
        assert dcmtk.command(place(tmp_path))[0] == str(program)
        assert dcm4che.version == "storescp 5.31.2"
        assert dcm4che.command(place(tmp_path))[0] == str(script)


def test_dcmtk_forks_only_for_several_associations_and_states_its_pdu_limit(tmp_path: Path) -> None:
    install(tmp_path / "bin", "storescp", DCMTK)
    dcmtk = receivers.dcmtk()
    assert dcmtk
    alone = dcmtk.command(place(tmp_path, max_pdu=16384))
    assert "--fork" not in alone
    assert alone[alone.index("--max-pdu") + 1] == "16384"
    beside = dcmtk.command(place(tmp_path, max_pdu=0, several=True))
    assert "--fork" in beside
    assert beside[beside.index("--max-pdu") + 1] == "131072"
    assert dcmtk.environment(place(tmp_path)) == {"TCP_NODELAY": "1"}


def test_the_folder_of_cargo_is_searched(tmp_path: Path) -> None:
    program = install(tmp_path / ".cargo/bin", "dicom-storescp", "dicom-storescp 0.10.1")
    dicom_rs = receivers.dicom_rs()
    assert dicom_rs
    assert dicom_rs.version == "dicom-storescp 0.10.1"
    assert dicom_rs.command(place(tmp_path))[0] == str(program)


def test_orthanc_gets_its_configuration(tmp_path: Path) -> None:
    install(tmp_path / "bin", "Orthanc", "Orthanc 1.10.1")
    orthanc = receivers.orthanc()
    assert orthanc
    _, path = orthanc.command(place(tmp_path))
    configuration = json.loads(Path(path).read_text())
    assert configuration["DicomPort"] == 11112
    assert configuration["StorageDirectory"] == str(tmp_path / "stored")
    assert not configuration["HttpServerEnabled"]
    assert "SyncStorageArea" not in configuration  # as it comes


def test_given_settings_override_the_benchmarks_own(tmp_path: Path) -> None:
    ours = receivers.oxidicom({"OXIDICOM_SCP_MAX_PDU_LENGTH": "4096", "OXIDICOM_WORKERS": "2"})
    assert ours
    environment = ours.environment(place(tmp_path))
    assert environment["OXIDICOM_SCP_MAX_PDU_LENGTH"] == "4096"
    assert environment["OXIDICOM_LISTENER_PORT"] == "11112"
    assert "OXIDICOM_WORKERS=2" in ours.version  # what was measured is said
