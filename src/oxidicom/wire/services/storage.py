"""C-STORE (PS3.4 annex B): the data set goes to the store, which answers."""

from __future__ import annotations

from typing import Final

from oxidicom.wire.services.service import DataSetUse, Service, no_response

SERVICE: Final = Service(no_response, DataSetUse.STORED)
