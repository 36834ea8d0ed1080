"""pynetdicom as a sender: its API for negotiation, its storescu application for files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pynetdicom import AE, build_role
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from tests.support.data import Instance, part_10
from tests.support.raw_peer import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT
from tests.support.receiver import Receiver


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("files")) as receiver:
        yield receiver


def associate(receiver: Receiver, *transfer_syntaxes: str, **options: Any) -> Any:
    entity = AE(ae_title="PYNETDICOM")
    entity.add_requested_context(Verification)
    entity.add_requested_context(CTImageStorage, list(transfer_syntaxes) or [EXPLICIT])
    association = entity.associate("127.0.0.1", receiver.port, **options)
    assert association.is_established
    return association


def data_set(instance: Instance, transfer_syntax: str = EXPLICIT) -> pydicom.Dataset:
    return pydicom.dcmread(DicomBytesIO(part_10(instance, transfer_syntax)))


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_instances_of_pynetdicom_are_stored(receiver: Receiver, transfer_syntax: str) -> None:
    association = associate(receiver, transfer_syntax)
    instances = [Instance(pixels=size) for size in (2, 30_000, 300_000)]
    for instance in instances:
        status = association.send_c_store(data_set(instance, transfer_syntax))
        assert status.Status == 0
    association.release()
    assert association.is_released
    for instance in instances:
        stored = pydicom.dcmread(receiver.path_of(instance.sop_instance))
        assert stored.file_meta.TransferSyntaxUID == transfer_syntax
        assert stored == data_set(instance, transfer_syntax)


def test_refusals_carry_their_reasons(receiver: Receiver) -> None:
    association = associate(receiver)
    status = association.send_c_store(data_set(Instance(PatientID=None)))
    assert status.Status == 0xC000
    assert status.OffendingElement == 0x00100020
    assert "PatientID" in status.ErrorComment
    assert association.send_c_echo().Status == 0
    association.release()


def test_negotiation(receiver: Receiver) -> None:
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field, identity.secondary_field = b"someone", b"secret"
    identity.positive_response_requested = True
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    window.maximum_number_operations_performed = 5
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = CTImageStorage
    extended.service_class_application_information = b"\2\0\0\0\1\0"
    role = build_role(CTImageStorage, scu_role=True, scp_role=True)
    association = associate(receiver, ext_neg=[role, identity, window, extended])
    (context,) = (
        context
        for context in association.accepted_contexts
        if context.abstract_syntax == CTImageStorage
    )
    assert context.as_scu
    assert not context.as_scp
    acceptor = association.acceptor
    assert acceptor.user_identity is not None
    assert acceptor.asynchronous_operations[0] >= 1
    assert association.send_c_echo().Status == 0
    association.release()


def test_rejected_context(receiver: Receiver) -> None:
    entity = AE()
    entity.add_requested_context(MRImageStorage, ["1.2.3.4"])
    entity.add_requested_context("1.2.3.4.5")
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", receiver.port)
    assert association.is_established
    assert {context.result for context in association.rejected_contexts} == {3, 4}
    association.release()


def test_other_services_are_unrecognized_operations(receiver: Receiver, tmp_path: Path) -> None:
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

    with Receiver(tmp_path, OXIDICOM_SCP_PROMISCUOUS="true") as promiscuous:
        entity = AE()
        entity.add_requested_context(Find)
        entity.add_requested_context(Verification)
        association = entity.associate("127.0.0.1", promiscuous.port)
        query = pydicom.Dataset()
        query.QueryRetrieveLevel = "SERIES"
        statuses = [status.Status for status, _ in association.send_c_find(query, Find)]
        assert statuses == [0x0211]
        assert association.send_c_echo().Status == 0
        association.release()


def test_an_abort_keeps_acknowledged_instances(receiver: Receiver) -> None:
    instance = Instance()
    association = associate(receiver)
    assert association.send_c_store(data_set(instance)).Status == 0
    association.abort()
    assert receiver.wait_for_registration(instance.series)["ndicom"] == 1


def test_storescu_application(receiver: Receiver, tmp_path: Path) -> None:
    series = Instance().series
    instances = [Instance(series=series, pixels=50_000, number=number) for number in range(1, 6)]
    for instance in instances:
        (tmp_path / f"{instance.sop_instance}.dcm").write_bytes(part_10(instance, EXPLICIT))
    command = [sys.executable, "-m", "pynetdicom", "storescu", "127.0.0.1", str(receiver.port)]
    subprocess.run([*command, str(tmp_path), "-cx"], check=True, timeout=60)
    for instance in instances:
        assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)
    assert receiver.wait_for_registration(series)["ndicom"] == 5
