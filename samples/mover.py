"""A C-MOVE SCU, which asks a PACS to send a series to another AE (PS3.4 C.4.2)."""

from __future__ import annotations

from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove

MOVER_AE_TITLE = "MOVER"
SUCCESS = 0x0000
PENDING = (0xFF00, 0xFF01)


class MoveError(Exception):
    """The PACS refused, or ended the association."""


def move(
    port: int,
    pacs_ae_title: str,
    destination_ae_title: str,
    study_instance_uid: str,
    series_instance_uid: str,
    timeout: float,
) -> int:
    """Move one series from the PACS on a port of this machine, and return how many instances
    failed.

    `timeout` is in seconds, between two answers of the PACS. Raises MoveError.
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = series_instance_uid
    entity = AE(MOVER_AE_TITLE)
    entity.dimse_timeout = entity.network_timeout = timeout
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    association = entity.associate("127.0.0.1", port, ae_title=pacs_ae_title)
    if not association.is_established:
        raise MoveError("the PACS does not accept the association")
    try:
        final = Dataset()
        for status, _ in association.send_c_move(
            identifier, destination_ae_title, StudyRootQueryRetrieveInformationModelMove
        ):
            if status.get("Status") not in PENDING:
                final = status
    finally:
        association.release()
    if "Status" not in final:
        raise MoveError("the PACS broke off, or did not answer in time")
    failed = int(final.get("NumberOfFailedSuboperations") or 0)
    if final.Status != SUCCESS and not failed:
        raise MoveError(
            f"the PACS cannot send to {destination_ae_title}: it answers 0x{final.Status:04X}"
        )
    return failed
