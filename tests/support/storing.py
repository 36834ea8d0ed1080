"""Helpers for tests of C-STORE over the wire."""

from __future__ import annotations

import struct

from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer, Response, c_store_rq
from tests.support.receiver import Receiver

OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND, PROCESSING_FAILURE = 0xA700, 0xA900, 0xC000, 0x0110

OFFENDING_ELEMENT, ERROR_COMMENT = 0x0901, 0x0902


def request(instance: Instance, message_id: int = 1) -> bytes:
    return c_store_rq(instance.sop_class, instance.sop_instance, message_id)


def store(peer: RawPeer, instance: Instance) -> Response:
    """Send an instance on context 1, in Explicit VR Little Endian."""
    return peer.store(
        instance.sop_instance, instance.encode(EXPLICIT), sop_class=instance.sop_class
    )


def assert_stored(peer: RawPeer, receiver: Receiver, instance: Instance) -> None:
    """Assert that the response to what was just sent is Success, and the file equals what was
    sent."""
    assert peer.response().status == 0
    assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)


def assert_refused(response: Response, status: int, offending: int | None = None) -> str:
    """Assert a refusal, and return its Error Comment."""
    assert response.status == status
    comment = response.text(ERROR_COMMENT)
    assert 0 < len(comment) <= 64
    if offending is None:
        assert OFFENDING_ELEMENT not in response.elements
    else:
        group, element = struct.unpack("<HH", response.elements[OFFENDING_ELEMENT])
        assert group << 16 | element == offending
    return comment
