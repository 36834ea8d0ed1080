"""TLS contexts: for DICOM over TLS with our certificate (PS3.15 B.12), and as client of servers.

Our certificate is checked when it is loaded, and loaded again when its files change.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.settings import Settings

logger = logging.getLogger("oxidicom.tls")

CIPHERS: Final = (
    *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    *("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    *("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
)
"""Cipher suites for TLS 1.2: those with forward secrecy and AEAD (RFC 9325 4.1, 4.2). All suites of
TLS 1.3 have both."""

_SECURITY_LEVEL: Final = "@SECLEVEL=2"
"""OpenSSL's security level of 112 bits: no RSA key under 2048 bits, no SHA-1 (RFC 9325 4.5)."""

_DAY_S: Final = 86_400.0

CERTIFICATE_EXPIRES_SOON_S: Final = 14 * _DAY_S
"""Remaining validity of our certificate, in seconds, below which `oxidicom check` warns."""

_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


class TlsFiles(NamedTuple):
    """The PEM files of DICOM over TLS."""

    certificate: Path
    """Our certificate, followed by those of the intermediate authorities."""
    key: Path
    client_ca: Path | None
    """Certificates of the authorities, one of which must have signed that of a peer; None if peers
    need no certificate."""

    @property
    def named(self) -> list[tuple[str, Path]]:
        """The configured files, each as the name of its setting and its path."""
        named = (
            ("OXIDICOM_TLS_CERT", self.certificate),
            ("OXIDICOM_TLS_KEY", self.key),
            ("OXIDICOM_TLS_CLIENT_CA", self.client_ca),
        )
        return [(name, path) for name, path in named if path is not None]


def tls_files(settings: Settings) -> TlsFiles | None:
    """Return the configured files, or None if DICOM over TLS is off."""
    if settings.tls_port is None:
        return None
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


class Validity(NamedTuple):
    """Whether peers can accept our certificate now."""

    fault: str | None
    """Why no peer can accept the certificate; None if it is valid."""
    remaining_s: float
    """Seconds until the certificate expires; 0.0 if it is not valid."""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and 1.3 as PS3.15 B.12 and RFC 9325 require.

    Raises OperatorError if a file cannot be used.
    """
    for name, path in files.named:
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise OperatorError(
                f"{name}={path}: {error.strerror}; expected a PEM file that this user may read"
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Set here because OpenSSL's own configuration file may allow them (RFC 9325 3.3, 3.5).
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(":".join((*CIPHERS, _SECURITY_LEVEL)))
    _load_pair(context, files)
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise OperatorError(
                f"OXIDICOM_TLS_CLIENT_CA={files.client_ca}: there is no certificate in it;"
                " expected those of the authorities that sign your peers', as PEM"
            ) from error
        _accept_old_authorities(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    asked_for_password = False

    def no_password() -> bytes:
        # Without this function OpenSSL would wait for a password on the terminal.
        nonlocal asked_for_password
        asked_for_password = True
        return b""

    try:
        context.load_cert_chain(files.certificate, files.key, no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        if asked_for_password:
            text = f"OXIDICOM_TLS_KEY={files.key}: the key has a password; store it without one"
        elif reason == "KEY_VALUES_MISMATCH":
            text = (
                f"OXIDICOM_TLS_KEY={files.key} is not the key of the certificate"
                f" OXIDICOM_TLS_CERT={files.certificate}: set both to one pair"
            )
        elif not _has_certificate(files.certificate):
            text = (
                f"OXIDICOM_TLS_CERT={files.certificate}: there is no certificate in it; expected a"
                " PEM file with our certificate first, then those of its authorities"
            )
        elif reason is not None and reason.endswith(("KEY_TOO_SMALL", "MD_TOO_WEAK")):
            text = (
                f"OXIDICOM_TLS_CERT={files.certificate}: the certificate is too weak ({reason}):"
                " use an EC key, or an RSA key of at least 2048 bits, signed with SHA-256"
            )
        else:
            text = (
                f"OXIDICOM_TLS_KEY={files.key}: there is no private key in it; expected a PEM file"
                " with the certificate's key"
            )
        raise OperatorError(text) from error


def _has_certificate(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:
        return False
    return True


def validity(files: TlsFiles) -> Validity:
    """Return whether a peer that trusts our certificate would accept it now.

    Raises OperatorError if a file cannot be used.
    """
    server = server_context(files._replace(client_ca=None))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(files.certificate)
    try:
        expires = _handshake(client, server)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return Validity("it has expired", 0.0)
        if error.verify_code == _NOT_YET_VALID:
            return Validity("it is not valid yet", 0.0)
        return Validity(error.verify_message, 0.0)
    return Validity(None, ssl.cert_time_to_seconds(expires) - time.time())


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """Run a handshake in memory; return `notAfter` of the server's certificate as text.

    Raises SSLError; SSLCertVerificationError if `client` refuses the certificate.
    """
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server)
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    while True:
        try:
            client_side.do_handshake()
            break
        except ssl.SSLWantReadError:
            with contextlib.suppress(ssl.SSLWantReadError):
                server_end.do_handshake()
    certificate = client_side.getpeercert()
    assert certificate is not None
    return str(certificate["notAfter"])


class Certificates:
    """The TLS context for new connections, renewed by `reload`; open connections keep theirs.

    `stamp` returns a value for a path that is different after the file has changed. The constructor
    raises OperatorError if a file cannot be used, and logs a warning if the certificate is not
    valid now.
    """

    def __init__(self, files: TlsFiles, stamp: Callable[[Path], object] | None = None) -> None:
        self._files = files
        self._stamp = stamp or _file_stamp
        self._seen = self._loaded = self._stamps()
        self.context = server_context(files)
        fault = validity(files).fault
        if fault is not None:
            event(
                logger,
                logging.WARNING,
                "certificate not valid; peers will refuse it",
                reason=fault,
            )

    def _stamps(self) -> tuple[object, ...]:
        return tuple(self._stamp(path) for _, path in self._files.named)

    def reload(self, *, force: bool = False) -> None:
        """Load the files if they have changed; if they are unusable, warn and keep the old context.

        Certificate and key are replaced one after the other, so changed files are loaded only when
        two calls in a row find them the same. With `force` they are always loaded.
        """
        stamps = self._stamps()
        unchanged, self._seen = stamps == self._seen, stamps
        if stamps == self._loaded and not force:
            return
        if not unchanged and not force:
            return
        self._loaded = stamps
        try:
            context = server_context(self._files)
            fault = validity(self._files).fault
            if fault is not None:
                raise OperatorError(
                    f"OXIDICOM_TLS_CERT={self._files.certificate}: {fault}; expected a"
                    " certificate that is valid now"
                )
        except OperatorError as error:
            event(
                logger,
                logging.WARNING,
                "new certificate unusable; previous one stays in use",
                reason=str(error),
            )
            return
        self.context = context
        event(logger, logging.INFO, "certificate reloaded")


def _file_stamp(path: Path) -> object:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def expired_authorities(client_ca: Path) -> list[str]:
    """Return the common names of the expired authorities in the PEM file `client_ca`.

    Raises OSError (ssl.SSLError included) if the file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(client_ca)
    names = []
    for authority in context.get_ca_certs():
        if ssl.cert_time_to_seconds(str(authority["notAfter"])) <= time.time():
            subject: Any = authority["subject"]
            parts = dict(pair for part in subject for pair in part)
            names.append(str(parts.get("commonName", "one without a common name")))
    return names


def client_context(ca: Path | None = None) -> ssl.SSLContext:
    """Return a context that verifies a server's certificate and host name.

    With `ca` (PEM), only the authorities in that file are trusted, and OpenSSL's strict checks of
    RFC 5280 are off: hospitals' own authorities often lack the extensions that these require.
    Without `ca`, the system's trust store is used (or the file that SSL_CERT_FILE names) and the
    checks are those of Python's default context (strict from Python 3.13 on). Raises OSError
    (ssl.SSLError included) if `ca` cannot be read.
    """
    context = ssl.create_default_context(cafile=ca)
    if ca is not None:
        _accept_old_authorities(context)
    return context


def _accept_old_authorities(context: ssl.SSLContext) -> None:
    """Turn off OpenSSL's strict checks, as Python 3.11 and 3.12 do by default."""
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
