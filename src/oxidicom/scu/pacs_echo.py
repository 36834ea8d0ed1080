"""Whether a PACS is there and lets us in: C-ECHO (PS3.4 annex A)."""

from __future__ import annotations

from oxidicom.constants import VERIFICATION
from oxidicom.scu.find_association import NoAnswer, associated
from oxidicom.settings.addresses import PacsAddress


def echo(address: PacsAddress, calling_ae_title: str, within: float) -> None:
    """For `within` seconds at most; raises NoAnswer."""
    with associated(address, calling_ae_title, VERIFICATION, within) as association:
        association.wait_no_longer()
        response = association.pynetdicom.send_c_echo()
        if "Status" not in response:
            raise association.lost()
        if response.Status != 0:
            raise NoAnswer(f"status {response.Status:04X}H")
