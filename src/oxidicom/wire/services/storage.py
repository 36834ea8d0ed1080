"""Storage service (PS3.4 annex B): the response depends on how the store handles the data set."""

from __future__ import annotations

from typing import Final

from oxidicom.wire.services.service import DataSetUse, Service, no_response

SERVICE: Final = Service(no_response, DataSetUse.STORED)
