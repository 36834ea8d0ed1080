"""`oxidicom outbox` beside a receiver whose CUBE refuses (decisions 35, 41)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom.notify.outbox_store import Outbox, new_entry
from tests.support.cube_http import PASSWORD, USERNAME, Cube, Reply
from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import PYTHONPATH, Receiver, wait_until
from tests.support.registrations import numbered

REFUSAL = Reply(400, {"path": ["Doe^Jane is no path"]})


@pytest.fixture
def cube() -> Iterator[Cube]:
    with Cube() as cube:
        yield cube


def registering(root: Path, cube: Cube, **more: str | None) -> Receiver:
    return Receiver(
        root,
        CHRIS_URL=cube.url,
        CHRIS_USERNAME=USERNAME,
        CHRIS_PASSWORD=PASSWORD,
        OXIDICOM_HTTP_REGISTER="series",
        **more,
    )


def send(receiver: Receiver, *instances: Instance) -> None:
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for instance in instances:
            assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()


def outbox(receiver: Receiver, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `oxidicom outbox` in the receiver's environment."""
    given = {name: value for name, value in receiver.environment.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-m", "oxidicom", "outbox", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH} | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def files(receiver: Receiver) -> list[str]:
    return sorted(path.suffix for path in (receiver.state / "outbox").glob("[!.]*"))


def wait_for_refusal(receiver: Receiver) -> None:
    wait_until(lambda: files(receiver) == [".refused"], "a refused entry")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_refused_entry_is_retried_without_a_restart(
    tmp_path: Path, cube: Cube, workers: str
) -> None:
    cube.always = REFUSAL
    instance = Instance()
    with registering(tmp_path, cube, OXIDICOM_WORKERS=workers) as receiver:
        send(receiver, instance)
        wait_for_refusal(receiver)
        listed = outbox(receiver, "list", "--json")
        assert listed.returncode == 3, listed.stderr
        entry = json.loads(listed.stdout)
        assert entry["series_instance_uid"] == instance.series
        assert entry["refused_because"] == "CUBE answers 400, at fault: path"
        assert (entry["state"], entry["ndicom"], entry["attempts"]) == ("refused", 1, 1)
        shown = outbox(receiver, "show", entry["name"])
        assert "CUBE answers 400, at fault: path" in shown.stdout
        assert "Doe" not in shown.stdout + listed.stdout
        assert "Doe^Jane" in outbox(receiver, "show", entry["name"], "--phi").stdout

        # The cause is not corrected yet: the entry is refused again, and kept.
        asked = len(cube.requests)
        assert outbox(receiver, "retry", "--refused").returncode == 0
        cube.wait_for(lambda: len(cube.requests) > asked, "another attempt")
        wait_for_refusal(receiver)

        cube.always = None
        assert outbox(receiver, "retry", entry["name"][:12]).returncode == 0
        (taken,) = cube.wait_for_taken(1)
        assert taken.body["SeriesInstanceUID"] == instance.series
        wait_until(lambda: files(receiver) == [], "an empty outbox")
        assert outbox(receiver, "list").returncode == 0


def test_an_interrupted_retry_can_be_repeated(tmp_path: Path, cube: Cube) -> None:
    """The command was killed after its first step, and the receiver is killed later."""
    cube.always = REFUSAL
    with registering(tmp_path, cube) as receiver:
        send(receiver, Instance())
        wait_for_refusal(receiver)
        (path,) = (receiver.state / "outbox").glob("*.refused")
        path.rename(path.with_suffix(".retry"))
        receiver.kill()
        receiver.start()
        cube.always = None
        listed = outbox(receiver, "list")
        assert listed.returncode == 3
        assert "its retry was interrupted" in listed.stdout
        assert outbox(receiver, "retry", "--refused").returncode == 0
        cube.wait_for_taken(1)
        wait_until(lambda: files(receiver) == [], "an empty outbox")


def test_a_newer_registration_removes_a_refused_one(tmp_path: Path, cube: Cube) -> None:
    cube.next.append(REFUSAL)
    first = Instance()
    with registering(tmp_path, cube) as receiver:
        send(receiver, first)
        wait_for_refusal(receiver)
        send(receiver, Instance(series=first.series, number=2))
        (taken,) = cube.wait_for_taken(1)
        assert taken.body["ndicom"] == 2
        wait_until(lambda: files(receiver) == [], "an empty outbox")


def test_entries_of_a_dead_receiver_are_found_by_one_that_runs(tmp_path: Path, cube: Cube) -> None:
    with registering(tmp_path, cube) as receiver:
        send(receiver, Instance())
        cube.wait_for_taken(1)
        left = new_entry(numbered(1, 3))
        folder = receiver.state / "outbox"
        # Under another name first: the entry must be old when it appears.
        Outbox(tmp_path / "aside", sync=False).put(left)
        written = tmp_path / "aside" / f"{left.name}.json"
        os.utime(written, (0, 0))
        written.rename(folder / written.name)
        cube.wait_for_taken(2)
        wait_until(lambda: files(receiver) == [], "an empty outbox")


def test_a_retry_works_while_no_receiver_runs(tmp_path: Path, cube: Cube) -> None:
    cube.always = REFUSAL
    with registering(tmp_path, cube) as receiver:
        send(receiver, Instance())
        wait_for_refusal(receiver)
        receiver.stop()
        assert outbox(receiver, "retry", "--all").returncode == 0
        cube.always = None
        receiver.start()
        cube.wait_for_taken(1)
        wait_until(lambda: files(receiver) == [], "an empty outbox")
