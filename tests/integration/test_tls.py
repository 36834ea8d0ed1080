"""DICOM over TLS with other programs as peers of a receiver (PS3.15 B.12)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification

from tests.integration.test_dcmtk import assert_same, run, write_files
from tests.support.authority import Authority, Pair, found_authority
from tests.support.data import Instance, part_10
from tests.support.raw_peer import EXPLICIT, RawPeer, store_message
from tests.support.receiver import Receiver, wait_until
from tests.support.storing import request, store

WEAK = [
    "AES128-GCM-SHA256",  # no forward secrecy
    "DHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-SHA256",  # no AEAD
    "ECDHE-RSA-AES256-SHA",
    "AES128-SHA",
    "NULL-SHA256",
    "ADH-AES128-GCM-SHA256",
]
GOOD = [
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
]

with_dcmtk = pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def client(ours: Authority) -> Pair:
    return ours.issue("client")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("stranger"))


def variables(pair: Pair, **others: str) -> dict[str, str]:
    return {
        "OXIDICOM_TLS_PORT": "0",
        "OXIDICOM_TLS_CERT": str(pair.certificate),
        "OXIDICOM_TLS_KEY": str(pair.key),
        "OXIDICOM_LOG_LEVEL": "debug",
        **others,
    }


def trusting(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Receiver]:
    """A certificate with an RSA key, as most peers have."""
    pair = ours.issue("localhost", "rsa:2048")
    with Receiver(tmp_path_factory.mktemp("files"), **variables(pair)) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Receiver]:
    """A receiver that accepts TLS only, and only peers with a certificate."""
    environment = variables(Pair(ours.certificate, ours.key))
    environment |= {"OXIDICOM_TLS_CLIENT_CA": str(ours.ca)}
    root = tmp_path_factory.mktemp("files")
    with Receiver(root, **environment, OXIDICOM_LISTENER_PORT="off") as receiver:
        yield receiver


# ---- openssl s_client ----------------------------------------------------------------------------


def s_client(port: int, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *map(str, arguments)],
        input=b"",
        capture_output=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_modern_versions_are_accepted(
    open_to_all: Receiver, ours: Authority, option: str, version: str
) -> None:
    done = s_client(open_to_all.tls_port, option, "-CAfile", ours.ca, "-verify_return_error")
    assert done.returncode == 0, done.stderr
    assert f"New, {version}" in done.stdout.decode()
    assert "Compression: NONE" in done.stdout.decode()


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(open_to_all: Receiver, option: str) -> None:
    done = s_client(open_to_all.tls_port, option, "-cipher", "ALL@SECLEVEL=0")
    assert done.returncode != 0
    assert "protocol version" in done.stderr.decode()


@pytest.mark.parametrize("suite", GOOD)
def test_strong_suites_are_accepted(open_to_all: Receiver, suite: str) -> None:
    done = s_client(open_to_all.tls_port, "-tls1_2", "-cipher", suite)
    assert done.returncode == 0, done.stderr
    assert f"Cipher is {suite}" in done.stdout.decode()


@pytest.mark.parametrize("suite", WEAK)
def test_weak_suites_are_refused(open_to_all: Receiver, suite: str) -> None:
    done = s_client(open_to_all.tls_port, "-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0")
    assert done.returncode != 0
    assert "handshake failure" in done.stderr.decode()


def test_renegotiation_is_refused(open_to_all: Receiver) -> None:
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{open_to_all.tls_port}", "-tls1_2"],
        input=b"R\n",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stderr


def test_a_peer_that_trusts_another_authority_refuses_our_certificate(
    open_to_all: Receiver, stranger: Authority
) -> None:
    done = s_client(open_to_all.tls_port, "-CAfile", stranger.ca, "-verify_return_error")
    assert done.returncode != 0


def test_a_peer_of_another_authority_is_refused(
    mutual: Receiver, ours: Authority, client: Pair, stranger: Authority
) -> None:
    for context in (trusting(ours), trusting(ours, Pair(stranger.certificate, stranger.key))):
        with pytest.raises((ssl.SSLError, EOFError)), RawPeer(mutual.tls_port, tls=context) as peer:
            peer.associate()
    mutual.wait_for_log("peer certificate refused")
    mutual.wait_for_log("TLS handshake failed")
    with RawPeer(mutual.tls_port, tls=trusting(ours, client)) as peer:
        peer.associate()
        peer.echo()
        peer.release()
    assert len(mutual.log("peer certificate refused")) == 1


def test_peers_of_an_authority_without_key_usage_are_accepted(
    tmp_path: Path, ours: Authority
) -> None:
    """OpenSSL's strict checks would refuse their certificates; hospitals have such authorities."""
    old = found_authority(tmp_path / "old", key_usage=False)
    environment = variables(Pair(ours.certificate, ours.key), OXIDICOM_TLS_CLIENT_CA=str(old.ca))
    (tmp_path / "files").mkdir()
    with (
        Receiver(tmp_path / "files", **environment) as receiver,
        RawPeer(receiver.tls_port, tls=trusting(ours, old.issue("client"))) as peer,
    ):
        peer.associate()
        peer.release()


def test_with_the_plain_port_off_only_tls_listens(mutual: Receiver) -> None:
    connections = mutual.processes()[0].net_connections("tcp")
    assert [each.laddr.port for each in connections if each.status == "LISTEN"] == [mutual.tls_port]


# ---- senders -------------------------------------------------------------------------------------


@with_dcmtk
def test_dcmtk_sends_without_a_certificate(
    open_to_all: Receiver, ours: Authority, tmp_path: Path
) -> None:
    tls = ("--anonymous-tls", "--add-cert-file", str(ours.ca))
    run("echoscu", *tls, "127.0.0.1", str(open_to_all.tls_port))
    instances = write_files(tmp_path, 20)
    address = ("127.0.0.1", str(open_to_all.tls_port))
    run("storescu", *tls, "+sd", "-R", *address, str(tmp_path))
    assert_same(open_to_all, instances, tmp_path)


@with_dcmtk
@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_dcmtk_sends_with_a_certificate(
    mutual: Receiver, ours: Authority, client: Pair, tmp_path: Path, profile: str
) -> None:
    tls = ("+tls", str(client.key), str(client.certificate), "+cf", str(ours.ca), profile)
    run("echoscu", *tls, "127.0.0.1", str(mutual.tls_port))
    instances = write_files(tmp_path, 20)
    run("storescu", *tls, "+sd", "-R", "127.0.0.1", str(mutual.tls_port), str(tmp_path))
    assert_same(mutual, instances, tmp_path)


@with_dcmtk
def test_dcmtk_sends_to_the_plain_port_beside_tls(open_to_all: Receiver) -> None:
    run("echoscu", "127.0.0.1", str(open_to_all.port))


def test_pynetdicom_sends_with_a_certificate(
    mutual: Receiver, ours: Authority, client: Pair
) -> None:
    entity = AE(ae_title="PYNETDICOM")
    entity.add_requested_context(Verification)
    entity.add_requested_context(CTImageStorage, [EXPLICIT])
    association = entity.associate(
        "127.0.0.1", mutual.tls_port, tls_args=(trusting(ours, client), "localhost")
    )
    assert association.is_established
    assert association.send_c_echo().Status == 0
    instances = [Instance(pixels=size) for size in (2, 30_000, 3_000_000)]
    for instance in instances:
        data_set = pydicom.dcmread(DicomBytesIO(part_10(instance, EXPLICIT)))
        assert association.send_c_store(data_set).Status == 0
    association.release()
    assert association.is_released
    for instance in instances:
        assert mutual.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)


# ---- a whole receiver ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_instances_are_stored_byte_for_byte_on_both_ports(
    tmp_path: Path, ours: Authority, workers: str
) -> None:
    environment = variables(Pair(ours.certificate, ours.key), OXIDICOM_WORKERS=workers)
    series = Instance().series
    instances = [
        Instance(series=series, number=number, pixels=pixels)
        for number, pixels in enumerate([2, 5_000_000, *[9_000] * 40], 1)
    ]
    with Receiver(tmp_path, **environment) as receiver:
        with (
            RawPeer(receiver.tls_port, tls=trusting(ours)) as secure,
            RawPeer(receiver.port) as clear,
        ):
            secure.associate()
            clear.associate()
            for index, instance in enumerate(instances):
                assert store(clear if index % 4 == 3 else secure, instance).status == 0
            secure.release()
            clear.release()
        receiver.wait_for_log("association released", count=2)
        released = receiver.log("association released")
        assert sorted(str(record.get("tls")) for record in released) == ["None", "TLSv1.3"]
        (entry,) = receiver.wait_for_outbox(1)
        assert entry["ndicom"] == len(instances)
        for instance in instances:
            assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)
        wait_until(lambda: not receiver.leftovers(), "nothing left behind")


def subject_of(port: int, authority: Authority) -> str:
    with socket.create_connection(("127.0.0.1", port), 10) as raw:
        context = trusting(authority)
        context.check_hostname = False
        with context.wrap_socket(raw) as tls:
            shown = tls.getpeercert()
            assert shown is not None
            return str(shown["subject"][0][0][1])


@pytest.mark.parametrize(
    ("by_signal", "workers"), [(True, "1"), (True, "2"), (False, "2")], ids=str
)
def test_new_connections_get_a_new_certificate(
    tmp_path: Path, ours: Authority, workers: str, by_signal: bool
) -> None:
    names = [ours.issue(f"{name}.{workers}.{by_signal}") for name in ("first", "second", "third")]
    shown = [name.certificate.stem for name in names]
    live = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    root = tmp_path / "files"
    root.mkdir()

    def install(certificate: Path, key: Path) -> None:
        for source, target in ((certificate, live.certificate), (key, live.key)):
            fresh = target.with_suffix(".new")
            shutil.copy(source, fresh)
            fresh.replace(target)
        if by_signal:
            receiver.signal(signal.SIGHUP)

    for source, target in zip(names[0], live, strict=True):
        shutil.copy(source, target)
    count = int(workers)
    with Receiver(root, **variables(live, OXIDICOM_WORKERS=workers)) as receiver:
        port = receiver.tls_port
        context = trusting(ours)
        context.check_hostname = False
        assert subject_of(port, ours) == shown[0]
        with RawPeer(port, tls=context) as peer:
            peer.associate()
            install(*names[1])
            receiver.wait_for_log("certificate reloaded", count=count)
            assert subject_of(port, ours) == shown[1]
            peer.echo()

            install(names[2].certificate, names[1].key)
            refused = receiver.wait_for_log(
                "new certificate unusable; previous one stays in use", count=count
            )
            assert refused["level"] == "WARN"
            assert "is not the key of the certificate" in refused["reason"]
            assert subject_of(port, ours) == shown[1]

            install(*names[2])
            receiver.wait_for_log("certificate reloaded", count=2 * count)
            assert subject_of(port, ours) == shown[2]
            peer.echo()
            peer.release()


def test_a_connection_killed_during_an_instance_leaves_no_file(
    open_to_all: Receiver, ours: Authority
) -> None:
    instance = Instance(pixels=2_000_000)
    context = trusting(ours)
    with RawPeer(open_to_all.tls_port, tls=context) as peer:
        peer.associate(calling=b"KILLED")
        message = instance.encode(EXPLICIT)
        before = len(open_to_all.files())
        peer.send(store_message(1, request(instance), message, max_length=16384)[:1_000_000])
    open_to_all.wait_for_log("association ended", 10)
    assert len(open_to_all.files()) == before
    wait_until(lambda: open_to_all.leftovers() == [], "nothing left behind")


def test_an_unusable_certificate_is_an_error_at_start(
    tmp_path: Path, ours: Authority, client: Pair
) -> None:
    for workers in ("1", "2"):
        environment = {
            **{name: value for name, value in os.environ.items() if "OXIDICOM" not in name},
            **variables(Pair(client.certificate, ours.key), OXIDICOM_WORKERS=workers),
            "OXIDICOM_FILES_ROOT": str(tmp_path),
            "OXIDICOM_LISTENER_PORT": "0",
        }
        done = subprocess.run(
            [sys.executable, "-m", "oxidicom", "serve"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        (line,) = (each for each in done.stderr.splitlines() if each.startswith("oxidicom: "))
        assert "is not the key of the certificate" in line
        assert "set both to one pair" in line
