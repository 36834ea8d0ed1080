"""Probe of the TLS files: our certificate and key, and the authorities of peers."""

from __future__ import annotations

from typing import Final

from oxidicom.certificates import (
    CERTIFICATE_EXPIRES_SOON_S,
    TlsFiles,
    expired_authorities,
    server_context,
    tls_files,
    validity,
)
from oxidicom.cli.probes import Finding, Verdict
from oxidicom.errors import OperatorError
from oxidicom.settings import Settings

_DAY: Final = 86_400


def probe_tls(settings: Settings) -> list[Finding]:
    """Return a finding for our certificate, and a warning for each authority that has expired.

    Returns one finding if TLS is off, and a fault for each file that cannot be used.
    """
    files = tls_files(settings)
    if files is None:
        text = "TLS is off; to receive over TLS, set OXIDICOM_TLS_PORT"
        return [Finding("TLS", Verdict.NOT_SET, text)]
    try:
        server_context(files)
        return [_certificate(files), *_authorities(files)]
    except OperatorError as error:
        return [Finding("TLS", Verdict.FAULT, fault) for fault in error.faults]


def _certificate(files: TlsFiles) -> Finding:
    problem, seconds_left = validity(files)
    where = f"OXIDICOM_TLS_CERT={files.certificate}"
    if problem is not None:
        return Finding("TLS", Verdict.FAULT, f"{where}: {problem}; have another one issued")
    days = f"{seconds_left // _DAY:.0f} more days"
    if seconds_left < CERTIFICATE_EXPIRES_SOON_S:
        text = f"{where}: it is valid for {days} only; have another one issued"
        return Finding("TLS", Verdict.WARNING, text)
    clients = (
        "peers need no certificate" if files.client_ca is None else "peers must show a certificate"
    )
    return Finding(
        "TLS", Verdict.OK, f"the certificate and its key match, valid for {days}; {clients}"
    )


def _authorities(files: TlsFiles) -> list[Finding]:
    if files.client_ca is None:
        return []
    return [
        Finding(
            "TLS",
            Verdict.WARNING,
            f"OXIDICOM_TLS_CLIENT_CA={files.client_ca}: authority {name} has expired, so peers with"
            " its certificates are refused: add its new certificate",
        )
        for name in expired_authorities(files.client_ca)
    ]
