"""Ignores C-CANCEL and responses, to which no response is sent (PS3.7 9.3.2.3)."""

from __future__ import annotations

from typing import Final

from oxidicom.wire.services.service import Service, no_response

SERVICE: Final = Service(no_response)
