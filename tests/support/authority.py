"""Certificates of an authority of the tests' own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_EC = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")

_CA_CONFIGURATION = """
[ca]
default_ca = ours
[ours]
new_certs_dir = {folder}
database = {folder}/index.txt
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""


class Pair(NamedTuple):
    certificate: Path
    key: Path


class Authority(NamedTuple):
    ca: Path
    certificate: Path
    """Certificate of localhost, by name and not by address."""
    key: Path
    ca_key: Path

    def issue(self, name: str, *algorithm: str) -> Pair:
        """Issue a certificate that is valid for two days; `algorithm` is as for `openssl req
        -newkey`."""
        certificate, key = self._paths(name)
        _openssl(
            *("req", "-x509", "-newkey", *(algorithm or _EC), "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=CA:FALSE"),
            *("-CA", self.ca, "-CAkey", self.ca_key, "-keyout", key, "-out", certificate),
        )
        return Pair(certificate, key)

    def issue_for(self, name: str, begin: str, end: str, *, authority: bool = False) -> Pair:
        """Issue a certificate that is valid between two times of the form YYMMDDHHMMSSZ."""
        certificate, key = self._paths(name)
        folder = self.ca.parent
        configuration, request = folder / "ca.cnf", folder / f"{name}.csr"
        configuration.write_text(_CA_CONFIGURATION.format(folder=folder))
        (folder / "index.txt").touch()
        extensions = folder / f"{name}.ext"
        extensions.write_text(f"basicConstraints=CA:{str(authority).upper()}\n")
        _openssl(
            *("req", "-newkey", *_EC, "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", key, "-out", request),
        )
        _openssl(
            *("ca", "-batch", "-notext", "-config", configuration, "-in", request),
            *("-cert", self.ca, "-keyfile", self.ca_key, "-out", certificate),
            *("-startdate", begin, "-enddate", end, "-extfile", extensions),
        )
        return Pair(certificate, key)

    def _paths(self, name: str) -> Pair:
        return Pair(self.ca.parent / f"{name}.pem", self.ca.parent / f"{name}-key.pem")


def found_authority(folder: Path, *, key_usage: bool = True) -> Authority:
    """Make an authority that is valid for two days, as PEM files.

    Many authorities of hospitals have no key usage extension (RFC 5280 4.2.1.3). OpenSSL's strict
    checks, which Python 3.13 turns on for clients, refuse those: `key_usage=False` makes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca-key.pem"
    extension = ("-addext", "keyUsage=critical,keyCertSign,cRLSign") if key_usage else ()
    _openssl(
        *("req", "-x509", "-newkey", *_EC, "-nodes", "-days", "2", "-subj", "/CN=our authority"),
        *(*extension, "-keyout", ca_key, "-out", ca),
    )
    authority = Authority(ca, folder / "certificate.pem", folder / "key.pem", ca_key)
    pair = authority.issue("localhost")
    pair.certificate.rename(authority.certificate)
    pair.key.rename(authority.key)
    return authority


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
