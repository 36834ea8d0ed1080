"""Certificates of an authority of our own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


class Authority(NamedTuple):
    ca: Path
    certificate: Path
    """Of localhost, by name and not by address."""
    key: Path


def found_authority(folder: Path) -> Authority:
    """Valid for two days. All PEM files."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca-key.pem"
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    _openssl(
        *("req", "-x509", *_KEY.split(), "-days", "2", "-subj", "/CN=our authority"),
        *("-keyout", ca_key, "-out", ca),
    )
    _openssl(
        *("req", "-x509", *_KEY.split(), "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"),
        *("-CA", ca, "-CAkey", ca_key, "-keyout", key, "-out", certificate),
    )
    return Authority(ca, certificate, key)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
