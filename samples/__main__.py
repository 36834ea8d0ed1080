"""Build the study set, push it, and report the result."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

try:
    import numpy  # noqa: F401  (asked for here, so that the advice below covers it)
    import pynetdicom  # noqa: F401
    from rich.console import Console
except ModuleNotFoundError as error:
    sys.exit(f"{error}; what the samples need: pip install -e '.[sample]'")

from samples.cli import Asked, ask
from samples.folder import RECEIVED, BuiltSeries, FolderError, build, read_manifest
from samples.orthanc import Orthanc, OrthancError
from samples.process import ServerError
from samples.push import WAYS, Pushed, load, push_all
from samples.receiver import Destination, Receiver, registrations_waiting
from samples.study_set import FULL, SMALL
from samples.table import MEGABYTE, failures, table_of

WIDTH = 100
"""Characters of a line where the output is no terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 1 where something is missing or failed."""
    asked = ask(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    try:
        if asked.command != "push":
            _build(asked, console)
        return 0 if asked.command == "build" else _push(asked, console)
    except (FolderError, OrthancError, ServerError) as error:
        print(error, file=sys.stderr)
        return 1


def _build(asked: Asked, console: Console) -> None:
    built = []
    with console.status("Drawing patients …") as status:
        for series in build(asked.folder, SMALL if asked.small else FULL):
            built.append(series)
            status.update(f"Drew {series.modality} {series.description}")
    _say(console, f"Built {_extent(built)} in {asked.folder}/studies")


def _push(asked: Asked, console: Console) -> int:
    built = read_manifest(asked.folder)
    ways = [WAYS[name] for name in dict.fromkeys(asked.ways or WAYS)]
    pushes: list[Pushed] = []
    with contextlib.ExitStack() as servers:
        work = servers.enter_context(_work_folder(asked.folder))
        with console.status("Starting Orthanc …"):
            orthanc = servers.enter_context(Orthanc(work))
        with console.status(f"Loading {_extent(built)} into Orthanc …"):
            load(orthanc, asked.folder, built)
        destination, root = servers.enter_context(_receiver(asked))
        where = f"{destination.host}:{destination.port} ({destination.ae_title})"
        _say(console, f"Pushing from Orthanc to {where}")
        with console.status("Pushing …") as status:
            for one in push_all(orthanc, destination, asked.folder, built, ways, root):
                pushes.append(one)
                status.update(f"{one.way.name}: {one.series.modality} {one.series.description}")
    console.print(table_of(pushes))
    wrong = failures(pushes)
    if asked.destination is None:
        wrong += _registrations(asked, console, len(pushes))
    for line in wrong:
        _say(console, line)
    return 1 if wrong else 0


@contextlib.contextmanager
def _receiver(asked: Asked) -> Iterator[tuple[Destination, Path | None]]:
    """Yield where to send, and the folder in which the receiver's files can be seen."""
    if asked.destination is not None:
        yield asked.destination, asked.root
        return
    root = asked.folder / RECEIVED
    shutil.rmtree(root, ignore_errors=True)  # of the run before
    with Receiver(root, asked.folder / "receiver.log") as receiver:
        yield receiver.destination, root


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder for Orthanc beside the samples, since it becomes as large as they are."""
    with tempfile.TemporaryDirectory(prefix="orthanc-", dir=folder) as name:
        yield Path(name)


def _registrations(asked: Asked, console: Console, expected: int) -> list[str]:
    """Print the registrations that a broker would have received, and return what is wrong with
    them."""
    root = asked.folder / RECEIVED
    waiting = registrations_waiting(root)
    _say(console, f"Received in {root}; {waiting} registrations wait in its outbox for a broker")
    return [] if waiting == expected else [f"{expected} registrations should wait, one a series"]


def _extent(built: Sequence[BuiltSeries]) -> str:
    instances = sum(len(series.instances) for series in built)
    megabytes = sum(series.length for series in built) / MEGABYTE
    return f"{len(built)} series, {instances} instances, {megabytes:.0f} MB"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that our servers end with this process
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
