"""`oxidicom check` with real folders and ports, and brokers that answer, refuse or hang."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from oxidicom.cli import main, probes
from oxidicom.cli.probes import Finding, Verdict
from oxidicom.cli.probes import broker as broker_probe
from oxidicom.cli.probes import cube as cube_probe
from oxidicom.cli.probes import nats as nats_probe
from oxidicom.cli.probes import pacs as pacs_probe
from oxidicom.cli.probes.broker import probe_broker
from oxidicom.cli.probes.cube import probe_cube
from oxidicom.cli.probes.listener import probe_listener
from oxidicom.cli.probes.nats import probe_nats
from oxidicom.cli.probes.pacs import probe_pacs
from oxidicom.cli.probes.storage import probe_storage
from oxidicom.settings import Settings
from oxidicom.settings.addresses import PacsAddress
from tests.support.brokers import NatsServer, RabbitMQ, find_program
from tests.support.cube_http import PASSWORD, USERNAME, Cube, Reply
from tests.support.orthanc import ORTHANC, Orthanc
from tests.support.ports import free_port
from tests.support.server_that import server_that


class Answer(NamedTuple):
    status: int
    out: str

    def line(self, subject: str) -> str:
        """The one about `subject`, after the settings."""
        (line,) = [
            each
            for each in self.out.partition("\n\n")[2].splitlines()
            if each.startswith(f"{subject} ")
        ]
        return line


Check = Callable[..., Answer]


@pytest.fixture
def check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Check:
    """Runs the command with a valid environment, changed by what the test sets."""

    def run(*arguments: str, **environ: str) -> Answer:
        for name in os.environ:
            if name.upper().startswith(("OXIDICOM_", "CHRIS_", "OTEL_")):
                monkeypatch.delenv(name)
        good = {
            "OXIDICOM_FILES_ROOT": str(tmp_path / "files"),
            "OXIDICOM_LISTENER_HOST": "127.0.0.1",
            "OXIDICOM_LISTENER_PORT": "0",
        }
        for name, value in {**good, **environ}.items():
            monkeypatch.setenv(name, value)
        status = main(["check", *arguments])
        return Answer(status, capsys.readouterr().out)

    return run


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> float:
    limit = 0.3
    for module in (probes, broker_probe, cube_probe, nats_probe, pacs_probe):
        monkeypatch.setattr(module, "PROBE_LIMIT_S", limit)
    return limit


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def fault(findings: list[Finding]) -> str:
    finding = only(findings)
    assert finding.verdict is Verdict.FAULT
    return finding.text


class TestCommand:
    def test_no_fault_gives_status_0(self, check: Check, tmp_path: Path) -> None:
        answer = check()
        assert answer.status == 0
        assert answer.line("storage").startswith("storage   ok ")
        assert answer.line("listener").startswith("listener  ok ")

    def test_json(self, check: Check) -> None:
        answer = check("--json", OXIDICOM_NATS_ADDRESS=f"127.0.0.1:{free_port()}")
        found = json.loads(answer.out)
        assert (answer.status, found["ok"]) == (1, False)
        verdicts = {each["subject"]: each["verdict"] for each in found["findings"]}
        assert verdicts["NATS"] == "fault"
        assert verdicts["storage"] == verdicts["listener"] == "ok"
        assert verdicts["broker"] == "not_set"
        names = {each["name"]: each["default"] for each in found["settings"]}
        assert names["OXIDICOM_NATS_ADDRESS"] is False
        assert "OXIDICOM_CELERY_BROKER" in found["warnings"][0]

    def test_brokers_that_are_not_set_are_no_fault(self, check: Check) -> None:
        answer = check()
        assert answer.status == 0
        assert answer.line("broker").startswith("broker    not set ")
        assert "OXIDICOM_CELERY_BROKER" in answer.line("broker")
        assert answer.line("NATS").startswith("NATS      not set ")
        assert "OXIDICOM_NATS_ADDRESS" in answer.line("NATS")
        assert answer.line("PACS").startswith("PACS      not set ")
        assert "OXIDICOM_PACS_ADDRESS" in answer.line("PACS")

    def test_settings_in_force_are_printed_without_secrets(self, check: Check) -> None:
        answer = check(
            OXIDICOM_CELERY_BROKER=f"amqp://user:sesame@127.0.0.1:{free_port()}",
            OXIDICOM_FSYNC="yes",
        )
        settings = {
            line.split()[0]: line.split(maxsplit=1)[1]
            for line in answer.out.partition("\n\n")[0].splitlines()
        }
        assert settings["OXIDICOM_FSYNC"] == "true"
        assert settings["OXIDICOM_QUEUE_NAME"] == "main2  (default)"
        assert settings["OXIDICOM_CELERY_BROKER"].startswith("amqp://user:***@127.0.0.1:")
        assert "sesame" not in answer.out

    def test_every_fault_is_reported_at_once(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            answer = check(
                OXIDICOM_FILES_ROOT=str(tmp_path / "file"),
                OXIDICOM_CELERY_BROKER=f"amqp://127.0.0.1:{free_port()}",
                OXIDICOM_NATS_ADDRESS=f"127.0.0.1:{free_port()}",
                OXIDICOM_LISTENER_PORT=str(taken.getsockname()[1]),
            )
        assert answer.status == 1
        for subject in ("storage", "broker", "NATS", "listener"):
            assert " FAULT " in answer.line(subject)

    def test_storage_that_hangs_is_a_fault_and_does_not_block_the_command(
        self, check: Check, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released = threading.Event()

        def hang(settings: Settings) -> list[Finding]:
            released.wait()
            return []

        monkeypatch.setattr("oxidicom.cli.check._ALL_PROBES_LIMIT_S", 2)
        monkeypatch.setattr(
            "oxidicom.cli.check._PROBES", {"storage": hang, "listener": probe_listener}
        )
        try:
            answer = check()
        finally:
            released.set()
        assert answer.status == 1
        assert "it hangs" in answer.line("storage")
        assert " ok " in answer.line("listener")


class TestStorage:
    def test_no_file_or_folder_is_left_behind(self, tmp_path: Path) -> None:
        root = tmp_path / "not" / "there" / "yet"
        assert only(probe_storage(Settings(files_root=root))).verdict is Verdict.OK
        assert list(tmp_path.iterdir()) == []

    def test_existing_files_and_folders_are_not_changed(self, tmp_path: Path) -> None:
        for folder in (".oxidicom/tmp", "SERVICES/PACS/AET"):
            (tmp_path / folder).mkdir(parents=True)
        before = sorted(tmp_path.rglob("*"))
        assert only(probe_storage(Settings(files_root=tmp_path))).verdict is Verdict.OK
        assert sorted(tmp_path.rglob("*")) == before

    def test_the_root_itself_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        finding = only(probe_storage(Settings(files_root=tmp_path / "link")))
        assert finding.verdict is Verdict.OK

    @pytest.mark.parametrize("below", [".oxidicom", "SERVICES", "SERVICES/PACS"])
    def test_a_link_below_the_root_is_a_fault(self, below: str, tmp_path: Path) -> None:
        root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
        elsewhere.mkdir()
        (root / below).parent.mkdir(parents=True)
        (root / below).symlink_to(elsewhere)
        text = fault(probe_storage(Settings(files_root=root)))
        assert f"{root / below} is a symbolic link" in text
        assert list(elsewhere.iterdir()) == []

    @pytest.mark.parametrize("below", ["", "deeper", ".oxidicom", "SERVICES/PACS"])
    def test_a_file_where_a_folder_should_be(self, below: str, tmp_path: Path) -> None:
        root = tmp_path / "root"
        in_the_way = root if below == "deeper" else root / below
        in_the_way.parent.mkdir(parents=True, exist_ok=True)
        in_the_way.touch()
        settings = Settings(files_root=root / "deeper" if below == "deeper" else root)
        text = fault(probe_storage(settings))
        assert "not a folder" in text
        assert "OXIDICOM_FILES_ROOT" in text

    def test_too_little_free_space_refuses_the_instance(self, tmp_path: Path) -> None:
        text = fault(probe_storage(Settings(files_root=tmp_path, min_free_space=1 << 62)))
        assert "OXIDICOM_MIN_FREE_SPACE" in text

    def test_no_free_inodes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.statvfs(tmp_path)
        exhausted = os.statvfs_result([*real[:7], 0, *real[8:]])
        assert exhausted.f_files > 0
        monkeypatch.setattr(os, "statvfs", lambda path: exhausted)
        assert "no inodes left" in fault(probe_storage(Settings(files_root=tmp_path)))

    @pytest.mark.parametrize(
        ("number", "words"),
        [
            (errno.EACCES, "change its owner"),
            (errno.EPERM, "change its owner"),
            (errno.EROFS, "read-only"),
            (errno.ENOSPC, "is full"),
            (errno.EDQUOT, "quota"),
            (errno.EIO, "Input/output error"),
        ],
    )
    @pytest.mark.parametrize("call", ["open", "write", "fsync"])
    def test_errors_of_the_system_are_explained(
        self,
        call: str,
        number: int,
        words: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*arguments: object) -> int:
            raise OSError(number, os.strerror(number))

        root = tmp_path / "root"
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            text = fault(probe_storage(Settings(files_root=root)))
        assert words in text
        assert list(tmp_path.iterdir()) == []

    def test_two_file_systems(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def rename(source: Path, target: Path) -> Path:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            text = fault(probe_storage(Settings(files_root=tmp_path / "root")))
        assert "different file systems" in text
        assert "mount one file system at OXIDICOM_FILES_ROOT" in text
        assert list(tmp_path.iterdir()) == []

    def test_a_state_folder_of_its_own(self, tmp_path: Path) -> None:
        settings = Settings(files_root=tmp_path / "files", state_dir=tmp_path / "state")
        files, state = probe_storage(settings)
        assert (files.subject, files.verdict) == ("storage", Verdict.OK)
        assert (state.subject, state.verdict) == ("state", Verdict.OK)
        (tmp_path / "state").touch()
        files, state = probe_storage(settings)
        assert files.verdict is Verdict.OK
        assert state.verdict is Verdict.FAULT
        assert "OXIDICOM_STATE_DIR" in state.text


class TestListener:
    def settings(self, host: str, port: int) -> Settings:
        return Settings(files_root=Path("/data"), listener_host=host, listener_port=port)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
    def test_a_free_port(self, host: str) -> None:
        finding = only(probe_listener(self.settings(host, free_port())))
        assert finding.verdict is Verdict.OK

    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
    def test_a_port_in_use_is_a_fault(self, host: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            text = fault(probe_listener(self.settings(host, taken.getsockname()[1])))
        assert "is in use" in text
        assert "OXIDICOM_LISTENER_PORT" in text

    def test_the_admin_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            settings = Settings(
                files_root=Path("/data"),
                listener_host="127.0.0.1",
                listener_port=0,
                admin_port=port,
            )
            listener, admin = probe_listener(settings)
        assert listener.verdict is Verdict.OK
        assert admin.verdict is Verdict.FAULT
        assert f"127.0.0.1:{port} is in use" in admin.text
        assert "OXIDICOM_ADMIN_PORT" in admin.text

    def test_an_address_of_another_machine_is_a_fault(self) -> None:
        text = fault(probe_listener(self.settings("192.0.2.1", 0)))
        assert "not an address of this machine" in text
        assert "OXIDICOM_LISTENER_HOST" in text

    def test_a_name_that_does_not_resolve(self) -> None:
        text = fault(probe_listener(self.settings("nowhere.invalid", 0)))
        assert "does not resolve" in text

    def test_a_privileged_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def bind(self: socket.socket, address: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(socket.socket, "bind", bind)
        assert "1024 or more" in fault(probe_listener(self.settings("127.0.0.1", 104)))


def broker_settings(port: int, scheme: str = "amqp", ca: Path | None = None) -> Settings:
    broker = f"{scheme}://user:sesame@127.0.0.1:{port}"
    return Settings(files_root=Path("/data"), broker=broker, broker_ca=ca)


def nats_settings(*ports: int, scheme: str = "nats", ca: Path | None = None) -> Settings:
    address = ",".join(f"{scheme}://user:sesame@127.0.0.1:{port}" for port in ports)
    return Settings(files_root=Path("/data"), nats_address=address, broker_ca=ca)


PROBES = [
    pytest.param(
        lambda port: probe_broker(broker_settings(port)), "OXIDICOM_CELERY_BROKER", id="amqp"
    ),
    pytest.param(
        lambda port: probe_broker(broker_settings(port, "amqps")),
        "OXIDICOM_CELERY_BROKER",
        id="amqps",
    ),
    pytest.param(
        lambda port: probe_broker(broker_settings(port, "redis")),
        "OXIDICOM_CELERY_BROKER",
        id="redis",
    ),
    pytest.param(
        lambda port: probe_broker(broker_settings(port, "rediss")),
        "OXIDICOM_CELERY_BROKER",
        id="rediss",
    ),
    pytest.param(lambda port: probe_nats(nats_settings(port)), "OXIDICOM_NATS_ADDRESS", id="nats"),
    pytest.param(
        lambda port: probe_nats(nats_settings(port, scheme="tls")),
        "OXIDICOM_NATS_ADDRESS",
        id="tls",
    ),
]


@pytest.mark.parametrize(("probe", "variable"), PROBES)
class TestNoBroker:
    """Every failed connection is explained with what to set, and without a secret."""

    def test_refused(self, probe: Callable[[int], list[Finding]], variable: str) -> None:
        port = free_port()
        text = fault(probe(port))
        assert text == f"nothing listens at 127.0.0.1:{port}: start it there, or correct {variable}"

    def test_silent(
        self, probe: Callable[[int], list[Finding]], variable: str, short_limit: float
    ) -> None:
        with server_that(lambda connection: None) as port:
            text = fault(probe(port))
        assert "does not answer within" in text
        assert variable in text
        assert "sesame" not in text

    @pytest.mark.parametrize(
        "behave",
        [
            socket.socket.close,
            lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
            lambda connection: (
                connection.recv(1),
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                connection.shutdown(socket.SHUT_WR),
            ),
        ],
        ids=["closes", "ssh", "http"],
    )
    def test_a_server_with_another_protocol_is_a_fault(
        self,
        behave: Callable[[socket.socket], None],
        probe: Callable[[int], list[Finding]],
        variable: str,
        short_limit: float,
    ) -> None:
        with server_that(behave) as port:
            text = fault(probe(port))
        assert "does not speak" in text or "does not answer" in text  # HTTP waits for us, too
        assert variable in text
        assert "sesame" not in text


def test_names_that_do_not_resolve() -> None:
    root = Path("/data")
    for findings in (
        probe_broker(Settings(files_root=root, broker="amqp://nowhere.invalid")),
        probe_broker(Settings(files_root=root, broker="redis://nowhere.invalid")),
        probe_nats(Settings(files_root=root, nats_address="nowhere.invalid")),
    ):
        assert "does not resolve" in fault(findings)


def test_no_certificates(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for ca, words in ((empty, "it holds none"), (tmp_path / "none.pem", "No such file")):
        for findings in (
            probe_broker(broker_settings(1, "amqps", ca)),
            probe_broker(broker_settings(1, "rediss", ca)),
            probe_nats(nats_settings(1, ca=ca)),
        ):
            text = fault(findings)
            assert words in text
            assert "OXIDICOM_BROKER_CA" in text


needs_nats = pytest.mark.skipif(find_program("nats-server") is None, reason="no nats-server here")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    command = ["openssl", *options.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@needs_nats
class TestNats:
    def test_a_server_that_works(self, tmp_path: Path, check: Check) -> None:
        with NatsServer(tmp_path / "nats") as server:
            answer = check(OXIDICOM_NATS_ADDRESS=server.address)
        assert answer.status == 0
        assert f"ok       {server.address} accepts our login; server version " in answer.line(
            "NATS"
        )

    def test_every_server_of_a_cluster(self, tmp_path: Path) -> None:
        with NatsServer(tmp_path / "nats") as server:
            first, second = probe_nats(nats_settings(free_port(), server.port))
        assert first.verdict is Verdict.FAULT
        assert second.verdict is Verdict.OK

    def test_a_login_that_is_refused(self, tmp_path: Path) -> None:
        with NatsServer(tmp_path / "nats", ("--user", "user", "--pass", "other")) as server:
            text = fault(probe_nats(nats_settings(server.port)))
        assert "refuses this user, password or token" in text
        assert "sesame" not in text

    def test_a_login_that_is_right(self, tmp_path: Path) -> None:
        with NatsServer(tmp_path / "nats", ("--user", "user", "--pass", "sesame")) as server:
            assert only(probe_nats(nats_settings(server.port))).verdict is Verdict.OK

    def test_tls_asked_for_but_not_offered(self, tmp_path: Path) -> None:
        with NatsServer(tmp_path / "nats") as server:
            text = fault(probe_nats(nats_settings(server.port, scheme="tls")))
        assert "does not require TLS" in text

    def test_tls(self, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
        ca, key = certificate
        tls = ("--tls", "--tlscert", str(ca), "--tlskey", str(key))
        with NatsServer(tmp_path / "nats", tls) as server:
            for scheme in ("nats", "tls"):
                trusted = only(probe_nats(nats_settings(server.port, scheme=scheme, ca=ca)))
                assert trusted.verdict is Verdict.OK
                text = fault(probe_nats(nats_settings(server.port, scheme=scheme)))
                assert "is not trusted" in text
                assert "OXIDICOM_BROKER_CA" in text


@pytest.mark.skipif(find_program("rabbitmqctl") is None, reason="no RabbitMQ here")
def test_rabbitmq(tmp_path: Path) -> None:
    def settings(login: str, vhost: str = "") -> Settings:
        url = f"amqp://{login}@{server.address}/{vhost}"
        return Settings(files_root=Path("/data"), broker=url, queue_name="no such queue")

    with RabbitMQ(tmp_path / "rabbitmq") as server:
        finding = only(probe_broker(settings("guest:guest")))
        assert finding.verdict is Verdict.OK
        assert "queue no such queue does not exist yet" in finding.text
        assert "refuses this user or password" in fault(probe_broker(settings("guest:sesame")))
        assert "no such virtual host" in fault(probe_broker(settings("guest:guest", "nowhere")))


def cube_settings(url: str, *, password: str = PASSWORD, ca: Path | None = None) -> Settings:
    return Settings(
        files_root=Path("/data"),
        cube_url=url,
        cube_username=USERNAME,
        cube_password=password,
        broker_ca=ca,
    )


class TestCube:
    def test_a_server_that_works(self, check: Check) -> None:
        with Cube() as cube:
            answer = check(CHRIS_URL=cube.url, CHRIS_USERNAME=USERNAME, CHRIS_PASSWORD=PASSWORD)
        assert answer.status == 0
        assert f"ok       127.0.0.1:{cube.port} accepts our login" in answer.line("CUBE")
        assert "\nbroker " not in answer.out, "there is one way only"
        assert PASSWORD not in answer.out

    @pytest.mark.parametrize(
        ("register", "path", "reply"),
        [
            ("instance", "/api/v1/pacsfiles/", Reply(200, None, {"Allow": "GET, HEAD, OPTIONS"})),
            ("series", "/api/v1/pacs/series/", Reply(404)),
        ],
    )
    def test_a_cube_without_the_resource_is_a_fault(
        self, check: Check, register: str, path: str, reply: Reply
    ) -> None:
        other = {"instance": "series", "series": "instance"}[register]
        login = {"CHRIS_USERNAME": USERNAME, "CHRIS_PASSWORD": PASSWORD}
        with Cube() as cube:
            cube.shows[path] = reply
            wrong = check(CHRIS_URL=cube.url, OXIDICOM_HTTP_REGISTER=register, **login)
            right = check(CHRIS_URL=cube.url, OXIDICOM_HTTP_REGISTER=other, **login)
        assert wrong.status == 1
        assert "set another OXIDICOM_HTTP_REGISTER" in wrong.line("CUBE")
        assert right.status == 0

    def test_without_cubes_url_there_is_no_finding(self, check: Check) -> None:
        answer = check()
        assert "\nCUBE " not in answer.out
        assert "CHRIS_URL" in answer.line("broker")

    def test_a_login_that_is_refused(self) -> None:
        with Cube() as cube:
            text = fault(probe_cube(cube_settings(cube.url, password="sesame")))
        assert "correct CHRIS_USERNAME and CHRIS_PASSWORD" in text
        assert "sesame" not in text

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (403, "CHRIS_USERNAME and CHRIS_PASSWORD, or ask CUBE's administrator"),
            (404, "answers 404: this is not CUBE's API; correct CHRIS_URL"),
            (302, "redirects (302), and redirects are not followed: correct CHRIS_URL"),
            (503, "answers 503: CUBE, or a proxy in front of it, has an error"),
        ],
    )
    def test_http_statuses_are_explained(self, status: int, words: str) -> None:
        with Cube() as cube:
            cube.always = Reply(status, b"", {"Location": "http://elsewhere.invalid/"})
            assert words in fault(probe_cube(cube_settings(cube.url)))

    def test_a_refused_connection_is_a_fault(self) -> None:
        port = free_port()
        text = fault(probe_cube(cube_settings(f"http://127.0.0.1:{port}/api/v1/")))
        assert f"nothing listens at 127.0.0.1:{port}" in text
        assert "CHRIS_URL" in text

    def test_a_server_that_does_not_answer_is_a_fault(self, short_limit: float) -> None:
        with server_that(lambda connection: None) as port:
            text = fault(probe_cube(cube_settings(f"http://127.0.0.1:{port}/")))
        assert "does not answer within" in text

    def test_a_server_that_does_not_speak_http_is_a_fault(self) -> None:
        with server_that(lambda connection: connection.sendall(b"220 mail\r\n\r\n")) as port:
            text = fault(probe_cube(cube_settings(f"http://127.0.0.1:{port}/")))
        assert "does not speak HTTP" in text

    def test_tls_is_verified(self, certificate: tuple[Path, Path]) -> None:
        with Cube(tls=certificate) as cube:
            trusted = only(probe_cube(cube_settings(cube.url, ca=certificate[0])))
            text = fault(probe_cube(cube_settings(cube.url)))
            plain = cube.url.replace("https", "http")
            assert "CHRIS_URL" in fault(probe_cube(cube_settings(plain)))
        assert trusted.verdict is Verdict.OK
        assert "is not trusted" in text
        assert "OXIDICOM_BROKER_CA" in text
        assert cube.requests == []

    def test_certificates_that_cannot_be_read(self, tmp_path: Path) -> None:
        settings = cube_settings("https://127.0.0.1:1/", ca=tmp_path / "none.pem")
        assert "correct OXIDICOM_BROKER_CA" in fault(probe_cube(settings))


class TestPacs:
    """An unreachable PACS is a warning: it costs the count and nothing else."""

    def probe(self, *ports: int) -> list[Finding]:
        addresses = tuple(PacsAddress("ORTHANC", "127.0.0.1", port) for port in ports)
        return probe_pacs(Settings(files_root=Path("/data"), pacs_addresses=addresses))

    @pytest.mark.skipif(ORTHANC is None, reason="no Orthanc here")
    def test_a_server_that_works(self, tmp_path: Path, check: Check) -> None:
        with Orthanc(tmp_path).running() as orthanc:
            address = f"ORTHANC=127.0.0.1:{orthanc.dicom_port}"
            answer = check(OXIDICOM_PACS_ADDRESS=address)
        assert answer.status == 0
        assert answer.line("PACS") == f"PACS      ok       {address} answers a C-ECHO"

    def test_an_unreachable_pacs_is_a_warning(self, check: Check) -> None:
        address = f"ORTHANC=127.0.0.1:{free_port()}"
        answer = check(OXIDICOM_PACS_ADDRESS=address)
        assert answer.status == 0
        assert answer.line("PACS").startswith(f"PACS      warning  {address} does not answer")
        assert "connection refused" in answer.line("PACS")
        assert "OXIDICOM_PACS_ADDRESS" in answer.line("PACS")

    def test_pacs_that_hang_are_tested_at_once(self, short_limit: float) -> None:
        with server_that(lambda connection: None) as port:
            findings = self.probe(port, port, port)
        assert [finding.verdict for finding in findings] == [Verdict.WARNING] * 3
        assert all("gave no complete answer within" in finding.text for finding in findings)

    def test_a_name_server_that_hangs_does_not_block_the_command(
        self, short_limit: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released = threading.Event()

        def hang(*arguments: object) -> None:
            released.wait(10)

        monkeypatch.setattr(pacs_probe, "echo", hang)
        finding = only(self.probe(free_port()))
        released.set()
        assert finding.verdict is Verdict.WARNING
        assert "TimeoutError" in finding.text
