"""Our certificate: faults, reloading, TLS contexts (PS3.15 B.12)."""

from __future__ import annotations

import contextlib
import logging
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from oxidicom.certificates import (
    CIPHERS,
    Certificates,
    TlsFiles,
    client_context,
    expired_authorities,
    server_context,
    validity,
)
from oxidicom.cli.probes import Finding, Server, Verdict, explain_connection_error
from oxidicom.cli.probes.tls import probe_tls
from oxidicom.errors import OperatorError
from oxidicom.logevents import describe, describe_client_error
from oxidicom.settings import Settings
from tests.support.authority import Authority, Pair, found_authority

PAST, FUTURE = ("200101000000Z", "200201000000Z"), ("480101000000Z", "490101000000Z")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def without_key_usage(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("without_key_usage"), key_usage=False)


@pytest.fixture(scope="module")
def good(ours: Authority) -> Pair:
    return Pair(ours.certificate, ours.key)


@pytest.fixture(scope="module")
def other(ours: Authority) -> Pair:
    return ours.issue("other")


@pytest.fixture(scope="module")
def expired(ours: Authority) -> Pair:
    return ours.issue_for("expired", *PAST)


def files(pair: Pair, client_ca: Path | None = None) -> TlsFiles:
    return TlsFiles(pair.certificate, pair.key, client_ca)


def fault(files: TlsFiles) -> str:
    with pytest.raises(OperatorError) as caught:
        server_context(files)
    (text,) = caught.value.faults
    return text


# ---- the context -----------------------------------------------------------------------------


def test_the_context_allows_only_modern_versions_and_suites(good: Pair) -> None:
    context = server_context(files(good))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    suites = {suite["name"] for suite in context.get_ciphers() if suite["protocol"] == "TLSv1.2"}
    assert suites == set(CIPHERS)
    assert all(suite["aead"] for suite in context.get_ciphers())
    assert context.verify_mode == ssl.CERT_NONE


def test_with_an_authority_a_certificate_is_required(ours: Authority, good: Pair) -> None:
    assert server_context(files(good, ours.ca)).verify_mode == ssl.CERT_REQUIRED


# ---- authorities without the extensions that strict checks require ----------------------------


@pytest.fixture
def strict_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 and later set VERIFY_X509_STRICT in `ssl.create_default_context`."""
    create = ssl.create_default_context

    def strict(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = create(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


@pytest.mark.usefixtures("strict_by_default")
def test_strict_checks_are_off_for_a_broker_authority_that_the_operator_names(
    ours: Authority,
) -> None:
    assert not client_context(ours.ca).verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.usefixtures("strict_by_default")
def test_strict_checks_stay_as_python_sets_them_for_the_trust_store_of_the_system() -> None:
    assert client_context().verify_flags & ssl.VERIFY_X509_STRICT


def test_the_trust_store_of_the_system_is_checked_as_python_does() -> None:
    default = ssl.create_default_context().verify_flags
    assert client_context().verify_flags == default


def test_strict_checks_are_off_for_the_authorities_of_peers(
    monkeypatch: pytest.MonkeyPatch, ours: Authority, good: Pair
) -> None:
    load = ssl.SSLContext.load_verify_locations

    def load_and_turn_on_strict_checks(context: ssl.SSLContext, ca: Path) -> None:
        load(context, ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", load_and_turn_on_strict_checks)
    assert not server_context(files(good, ours.ca)).verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.usefixtures("strict_by_default")
def test_an_authority_without_a_key_usage_extension_is_trusted(
    without_key_usage: Authority,
) -> None:
    ca, certificate, key, _ = without_key_usage
    assert (
        handshake_error(client_context(ca), server_context(files(Pair(certificate, key)))) is None
    )


def test_a_strict_refusal_names_the_missing_extension(without_key_usage: Authority) -> None:
    ca, certificate, key, _ = without_key_usage
    client = client_context(ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    error = handshake_error(client, server_context(files(Pair(certificate, key))))
    missing = "the authority's certificate lacks the key usage extension"
    assert error is not None
    assert describe_client_error(error) == f"SSLCertVerificationError: {missing}"
    assert describe(error) == f"SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED, {missing}"
    server = Server("broker:5671", "AMQP 0-9-1", "OXIDICOM_CELERY_BROKER")
    assert f"is not trusted ({missing})" in explain_connection_error(error, server)


def handshake_error(
    client: ssl.SSLContext, server: ssl.SSLContext
) -> ssl.SSLCertVerificationError | None:
    """Run a handshake in memory; return why the client does not trust the server."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    far = server.wrap_bio(to_server, to_client, server_side=True)
    while True:
        try:
            near.do_handshake()
        except ssl.SSLWantReadError:
            with contextlib.suppress(ssl.SSLWantReadError):
                far.do_handshake()
        except ssl.SSLCertVerificationError as error:
            return error
        else:
            return None


# ---- what can be wrong -----------------------------------------------------------------------


def test_missing_and_unreadable_files_are_faults(
    tmp_path: Path, good: Pair, ours: Authority
) -> None:
    nothing = tmp_path / "nothing"
    for which, name in enumerate(
        ("OXIDICOM_TLS_CERT", "OXIDICOM_TLS_KEY", "OXIDICOM_TLS_CLIENT_CA")
    ):
        three = [*good, ours.ca]
        three[which] = nothing
        text = fault(TlsFiles(*three))
        assert text.startswith(f"{name}={nothing}: No such file")
    assert "Is a directory" in fault(TlsFiles(tmp_path, good.key, None))


def test_a_key_of_another_certificate_is_a_fault(good: Pair, other: Pair) -> None:
    text = fault(TlsFiles(good.certificate, other.key, None))
    assert "is not the key of the certificate" in text
    assert "set both to one pair" in text


def test_files_without_the_expected_pem_are_faults(tmp_path: Path, good: Pair) -> None:
    empty = tmp_path / "empty"
    empty.write_text("nothing to see\n")
    assert "OXIDICOM_TLS_CERT" in (text := fault(TlsFiles(empty, good.key, None)))
    assert "no certificate in it" in text
    assert "OXIDICOM_TLS_KEY" in (text := fault(TlsFiles(good.certificate, empty, None)))
    assert "no private key in it" in text
    assert "no private key in it" in fault(TlsFiles(good.certificate, good.certificate, None))
    assert "no certificate in it" in fault(TlsFiles(good.key, good.key, None))
    assert "OXIDICOM_TLS_CLIENT_CA" in (text := fault(files(good, empty)))
    assert "no certificate in it" in text


def test_a_key_with_a_password_is_a_fault_and_nothing_asks_for_it(
    tmp_path: Path, good: Pair
) -> None:
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", good.key, "-aes256", "-passout", "pass:sesame", "-out", locked],
        check=True,
    )
    text = fault(TlsFiles(good.certificate, locked, None))
    assert text.startswith("OXIDICOM_TLS_KEY=")
    assert "store it without one" in text


def test_a_key_that_is_too_short_is_a_fault(ours: Authority) -> None:
    text = fault(files(ours.issue("short", "rsa:1024")))
    assert "too weak" in text
    assert "2048" in text


def test_a_certificate_is_valid_between_its_two_dates(
    ours: Authority, good: Pair, expired: Pair
) -> None:
    fault_text, seconds = validity(files(good))
    assert fault_text is None
    assert 86_400 < seconds <= 2 * 86_400
    assert validity(files(expired)).fault == "it has expired"
    later = ours.issue_for("later", *FUTURE)
    assert validity(files(later, ours.ca)).fault == "it is not valid yet"


def test_expired_authorities_are_named(tmp_path: Path, ours: Authority) -> None:
    assert expired_authorities(ours.ca) == []
    old, _ = ours.issue_for("old", *PAST, authority=True)
    both = tmp_path / "both.pem"
    both.write_text(old.read_text() + ours.ca.read_text())
    assert expired_authorities(both) == ["old"]


def test_check_warns_of_an_expired_authority(tmp_path: Path, ours: Authority, good: Pair) -> None:
    old, _ = ours.issue_for("ancient", *PAST, authority=True)
    _, finding = probed(good, old)
    assert finding.verdict is Verdict.WARNING
    assert (
        "authority ancient has expired, so peers with its certificates are refused" in finding.text
    )


# ---- new files -------------------------------------------------------------------------------


class Installed:
    """TlsFiles that change under the certificates' eyes."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.live = Pair(folder / "tls.crt", folder / "tls.key")
        self.install(*pair)
        self.certificates = Certificates(files(self.live))
        self.first = self.certificates.context

    def install(self, certificate: Path | None = None, key: Path | None = None) -> None:
        for source, target in ((certificate, self.live.certificate), (key, self.live.key)):
            if source is not None:
                fresh = target.with_suffix(".new")
                shutil.copy(source, fresh)
                fresh.replace(target)

    @property
    def taken(self) -> bool:
        return self.certificates.context is not self.first


@pytest.fixture
def installed(tmp_path: Path, good: Pair) -> Installed:
    return Installed(tmp_path, good)


def test_unchanged_files_are_not_read_again(installed: Installed) -> None:
    for _ in range(3):
        installed.certificates.reload()
    assert not installed.taken
    installed.certificates.reload(force=True)
    assert installed.taken


def test_new_files_are_loaded_when_both_are_replaced(
    installed: Installed, other: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    installed.install(certificate=other.certificate)
    installed.certificates.reload()
    installed.install(key=other.key)
    installed.certificates.reload()
    assert not installed.taken
    installed.certificates.reload()
    assert installed.taken
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("broken", ["half", "expired", "gone", "garbage"])
def test_a_broken_pair_gives_one_warning_and_the_old_one_stays(
    installed: Installed,
    other: Pair,
    expired: Pair,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    match broken:
        case "half":
            installed.install(other.certificate)
        case "expired":
            installed.install(*expired)
        case "gone":
            installed.live.key.unlink()
        case "garbage":
            installed.live.certificate.write_text("garbage")
    for _ in range(5):
        installed.certificates.reload()
    assert not installed.taken
    (record,) = caplog.records
    assert (record.levelno, record.message) == (
        logging.WARNING,
        "new certificate unusable; previous one stays in use",
    )
    installed.install(*other)
    for _ in range(2):
        installed.certificates.reload()
    assert installed.taken


def test_an_expired_certificate_at_the_start_gives_a_warning(
    expired: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    Certificates(files(expired))
    (record,) = caplog.records
    assert (record.levelno, record.message) == (
        logging.WARNING,
        "certificate not valid; peers will refuse it",
    )


# ---- oxidicom check --------------------------------------------------------------------------


def probed(pair: Pair, client_ca: Path | None = None) -> list[Finding]:
    return probe_tls(
        Settings(
            files_root=Path("/data"),
            tls_port=0,
            tls_cert=pair.certificate,
            tls_key=pair.key,
            tls_client_ca=client_ca,
        )
    )


def test_check_reports_that_tls_is_off() -> None:
    (finding,) = probe_tls(Settings(files_root=Path("/data")))
    assert finding.verdict is Verdict.NOT_SET


def test_check_reports_how_long_a_pair_is_valid(ours: Authority) -> None:
    now = time.time()
    begin, end = (
        time.strftime("%y%m%d%H%M%SZ", time.gmtime(now + days * 86_400)) for days in (-1, 100.5)
    )
    pair = ours.issue_for("lasting", begin, end)
    (finding,) = probed(pair)
    assert finding.verdict is Verdict.OK
    assert "valid for 100 more days" in finding.text
    assert "peers need no certificate" in finding.text
    (finding,) = probed(pair, ours.ca)
    assert "must show a certificate" in finding.text


def test_check_warns_of_a_certificate_that_expires_soon(good: Pair) -> None:
    (finding,) = probed(good)
    assert finding.verdict is Verdict.WARNING
    assert "valid for 1 more days only" in finding.text


def test_check_reports_faults_of_the_files(
    tmp_path: Path, good: Pair, other: Pair, expired: Pair
) -> None:
    for pair, words in (
        (expired, "it has expired; have another one issued"),
        (Pair(good.certificate, other.key), "is not the key"),
        (Pair(tmp_path / "none", good.key), "No such file"),
    ):
        (finding,) = probed(pair)
        assert finding.verdict is Verdict.FAULT
        assert words in finding.text
