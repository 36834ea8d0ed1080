"""The command line: which command runs, and with what exit status."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import oxidicom
from oxidicom import __version__
from oxidicom.cli import COMMANDS, main
from oxidicom.cli.completion import SHELLS
from oxidicom.errors import OperatorError
from oxidicom.settings import Settings, markdown_table

Run = Callable[[Settings, list[str]], int]
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("OXIDICOM_", "CHRIS_", "OTEL_")) or name == "PORT":
            monkeypatch.delenv(name)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Replace the application, which is tested elsewhere; tests set its `run`."""
    module = ModuleType("oxidicom.app")
    monkeypatch.setitem(sys.modules, "oxidicom.app", module)
    monkeypatch.setattr(oxidicom, "app", module, raising=False)
    return module


@pytest.mark.parametrize("argv", [[], ["serve"]])
def test_serve_runs_without_a_command(
    argv: list[str],
    app: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    received: list[tuple[Settings, list[str]]] = []

    def run(settings: Settings, warnings: list[str]) -> int:
        received.append((settings, warnings))
        return 7

    app.run = run  # type: ignore[attr-defined]
    monkeypatch.setenv("OXIDICOM_FILES_ROOT", "/data")
    assert main(argv) == 7
    ((settings, (warning,)),) = received
    assert settings == Settings(files_root=Path("/data"))
    assert "OXIDICOM_CELERY_BROKER" in warning
    assert capsys.readouterr().err == "", "warnings go into the log"


@pytest.mark.parametrize("command", ["serve", "check"])
def test_faults_of_the_settings_are_status_2_and_lines_on_stderr(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OXIDICOM_FILE_ROOT", "/data")
    monkeypatch.setenv("OXIDICOM_FSYNC", "maybe")
    assert main([command]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("oxidicom: OXIDICOM_FILES_ROOT is not set")
    assert lines[1].startswith("oxidicom: OXIDICOM_FSYNC=maybe: expected")
    assert lines[2].startswith("oxidicom: warning: OXIDICOM_FILE_ROOT is unknown")


def test_a_fault_of_the_machine_is_status_1_and_no_traceback(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: Settings, warnings: list[str]) -> int:
        raise OperatorError("the port is taken", "the disk is full")

    app.run = run  # type: ignore[attr-defined]
    monkeypatch.setenv("OXIDICOM_FILES_ROOT", "/data")
    assert main([]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "oxidicom: the port is taken",
        "oxidicom: the disk is full",
    ]


def test_an_interrupt_prints_no_traceback(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(settings: Settings, warnings: list[str]) -> int:
        raise KeyboardInterrupt

    app.run = run  # type: ignore[attr-defined]
    monkeypatch.setenv("OXIDICOM_FILES_ROOT", "/data")
    assert main([]) == 130


def test_settings_prints_the_table_whatever_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OXIDICOM_FSYNC", "maybe")
    assert main(["settings"]) == 0
    assert capsys.readouterr().out == markdown_table()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"oxidicom {__version__}\n"


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "version": __version__,
        "python": platform.python_version(),
    }


def test_settings_in_force_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings", "--json"]) == 2
    monkeypatch.setenv("OXIDICOM_FILES_ROOT", "/data")
    monkeypatch.setenv("OXIDICOM_CELERY_BROKER", "amqp://user:secret@rabbitmq")
    capsys.readouterr()
    assert main(["settings", "--json"]) == 0
    out = capsys.readouterr().out
    assert "secret" not in out
    settings = [json.loads(line) for line in out.splitlines()]
    assert {"name": "OXIDICOM_FILES_ROOT", "value": "/data", "default": False} in settings
    assert {"name": "OXIDICOM_SCP_AET", "value": "ChRIS", "default": True} in settings


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_and_options(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert command in script
    if shell != "tcsh":  # shtab knows no options of commands there
        assert "--associations" in script


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    script += """
        complete_line() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_oxidicom
            echo "${COMPREPLY[*]}"
        }
        complete_line oxidicom se
        complete_line oxidicom echo --ca
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    commands, options = done.stdout.splitlines()
    assert set(commands.split()) == {"serve", "send", "settings"}
    assert set(options.split()) == {"--calling", "--ca"}


def test_every_command_explains_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert "exit status" in out.lower() or command in ("version", "completion"), command


def test_an_unknown_command_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["listen"])
    assert caught.value.code == 2
    assert "listen" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command}" in out
    assert "exit status:" in out


def python(program: str, *, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oxidicom", "version"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"oxidicom {__version__}\n", "")


def test_small_commands_do_not_load_the_brokers_libraries() -> None:
    done = python(
        "import sys; from oxidicom.cli import main; main(['settings']);"
        "print(sorted({'aio_pika', 'aiormq', 'nats', 'opentelemetry', 'pydicom', 'oxidicom.app'}"
        " & set(sys.modules)), file=sys.stderr)"
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("command", ["serve", "status"])
def test_a_command_loads_what_it_needs_itself(command: str) -> None:
    """Commands that start often, or must start fast, do not load what only others need."""
    done = python(
        "import sys; from oxidicom.cli import _parser; "
        f"_parser(['{command}']).parse_args(['{command}']);"
        "print(sorted({'rich', 'shtab', 'msgspec', 'asyncio', 'nats', 'oxidicom.scu',"
        " 'oxidicom.cli.probes'} & set(sys.modules)))"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_closed_pipe_on_stdout_prints_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = python(
            "import sys; from oxidicom.cli import main; sys.exit(main(['settings']))", stdout=writer
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
