"""TLS towards a broker: always verified (decision 2)."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(ca: Path | None = None) -> ssl.SSLContext:
    """Verify the broker's certificate and name, with the certificates of `ca` (PEM) instead of the
    system's trust store where one is given; SSL_CERT_FILE is OpenSSL's own and honoured by it.

    Raises OSError (ssl.SSLError included) if `ca` cannot be read.
    """
    return ssl.create_default_context(cafile=ca)
