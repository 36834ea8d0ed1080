"""Show registrations that are not confirmed, and requeue refused ones."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from oxidicom.cli.arguments import add_json, set_epilog
from oxidicom.cli.console import (
    EXIT_FAULT,
    EXIT_SETTINGS,
    print_error,
    print_json,
    printable,
    settings_of_environment,
)
from oxidicom.errors import OperatorError
from oxidicom.notify.outbox_inspect import (
    EntryState,
    OutboxFile,
    RequeueOutcome,
    entry_files,
    inspect,
    requeue,
    state_of,
)
from oxidicom.settings import Settings

EXIT_NEEDS_OPERATOR: Final = 3
"""Exit status of `outbox list` if there are refused or corrupt entries."""

_MIN_PREFIX_LENGTH: Final = 4
"""Least number of characters of an entry's name that the operator must give."""

_SHOWN_NAME_LENGTH: Final = 12
"""Number of characters of an entry's name that are shown. They are hexadecimal, and 48 bits
distinguish the entries of any outbox."""

_FIELDS_WITHOUT_PHI: Final = frozenset(
    ("calling_ae_title", "pacs_name", "study_instance_uid", "series_instance_uid", "modality")
)
"""Fields of a series that are shown without --phi; all others count as patient data."""

_LISTED_PHI_FIELDS: Final = ("patient_id", "patient_name", "study_date")
"""Fields of a series that `list --phi` adds to the line of an entry."""

_LIST: Final = f"""\
exit status:
  0   no entry needs an operator; the receiver delivers pending ones
  1   the state folder cannot be used
  2   the arguments or the settings are invalid
  {EXIT_NEEDS_OPERATOR}   there are refused or corrupt entries: use show, then retry
"""
_SHOW: Final = """\
exit status:
  0   every entry was shown
  1   no such entry, or the state folder cannot be used
  2   the arguments or the settings are invalid
"""
_RETRY: Final = """\
A pending entry is never replaced, because it is at least as new. A running receiver finds the
requeued entry within seconds, 30 at most; otherwise the receiver finds it when it starts.

exit status:
  0   every entry is pending, or replaced by a newer registration of its series
  1   an entry could not be requeued, or the state folder cannot be used
  2   the arguments or the settings are invalid
"""
_OUTBOX: Final = """\
The state folder is that of `serve` in the same environment, whether it runs or not. NAME is a
name that `list` shows, or its beginning. For the exit statuses see `oxidicom outbox list --help`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    set_epilog(parser, _OUTBOX)
    actions = parser.add_subparsers(title="actions", metavar="action", dest="action", required=True)

    def action(name: str, line: str, epilog: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=line, description=line, allow_abbrev=False)
        set_epilog(made, epilog)
        return made

    listing = action("list", "List pending, refused and corrupt entries, oldest first.", _LIST)
    add_json(listing)
    listing.add_argument("--phi", action="store_true", help="print patient data, too")

    showing = action(
        "show", "Show everything of an entry, and why it was refused or is corrupt.", _SHOW
    )
    showing.add_argument("names", metavar="NAME", nargs="+")
    add_json(showing)
    showing.add_argument("--phi", action="store_true", help="print patient data, too")

    retrying = action("retry", "Requeue refused entries: make them pending again.", _RETRY)
    which = retrying.add_mutually_exclusive_group(required=True)
    which.add_argument("names", metavar="NAME", nargs="*", default=[])
    which.add_argument("--refused", action="store_true", help="requeue every refused entry")
    which.add_argument(
        "--all", action="store_true", help="requeue corrupt entries, too, if they can be read now"
    )
    add_json(retrying)


def run(arguments: argparse.Namespace) -> int:
    loaded = settings_of_environment()
    if loaded is None:
        return EXIT_SETTINGS
    settings, _ = loaded
    try:
        if not settings.state_dir.is_dir():
            raise OperatorError(
                f"the state folder {settings.state_dir} does not exist; set OXIDICOM_FILES_ROOT"
                " and OXIDICOM_STATE_DIR as for `serve`"
            )
        actions = {"list": _list, "show": _show, "retry": _retry}
        return actions[arguments.action](arguments, settings, settings.state_dir / "outbox")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OperatorError(
            f"cannot use the outbox: {error.strerror} ({error.filename}); run this as the user "
            "that `serve` runs as"
        ) from error


# ---- list ------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace, settings: Settings, folder: Path) -> int:
    count: Counter[EntryState] = Counter()
    now = time.time()
    for found in _inspect_all(entry_files(folder)):
        if not count and not arguments.json:
            print(_line("STATE", "AGE", "NAME", "NDICOM", "TRIES", "PACS", "SERIES", ""))
        count[found.state] += 1
        if arguments.json:
            print(json.dumps(_as_json(found, now, phi=arguments.phi)))
        else:
            print(_summary(found, now, phi=arguments.phi))
    if not arguments.json:
        print(", ".join(f"{count[state]} {state.value}" for state in EntryState))
    return EXIT_NEEDS_OPERATOR if count[EntryState.REFUSED] or count[EntryState.CORRUPT] else 0


def _summary(found: OutboxFile, now: float, *, phi: bool) -> str:
    age = _age(now - found.written_at)
    ndicom = tries = pacs_name = uid = "-"
    more: list[str] = []
    if found.entry is not None:
        registration, refusal = found.entry.registration, found.entry.refusal
        series = registration.series
        ndicom, pacs_name, uid = (
            str(registration.ndicom),
            series.pacs_name,
            series.series_instance_uid,
        )
        if refusal is not None:
            tries = str(refusal.attempts)
            more += [refusal.reason] if found.state is EntryState.REFUSED else []
        if phi:
            more += [f"{name}={getattr(series, name) or ''}" for name in _LISTED_PHI_FIELDS]
    if found.note is not None:
        more.append(found.note)
    name = found.name[:_SHOWN_NAME_LENGTH]
    return _line(found.state.value, age, name, ndicom, tries, pacs_name, uid, "  ".join(more))


def _line(*columns: str) -> str:
    state, age, name, ndicom, tries, pacs_name, uid, more = map(printable, columns)
    return (
        f"{state:<8} {age:>4}  {name:<{_SHOWN_NAME_LENGTH}}  {ndicom:>6}  {tries:>5}"
        f"  {pacs_name:<16}  {uid}  {more}"
    ).rstrip()


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


# ---- show ------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace, settings: Settings, folder: Path) -> int:
    status = 0
    now = time.time()
    first = True
    for name in arguments.names:
        shown = list(_inspect_all(_named(folder, name)))
        if not shown:
            status = EXIT_FAULT
        for found in shown:
            if arguments.json:
                print(json.dumps(_as_json(found, now, phi=arguments.phi)))
                continue
            if not first:
                print()
            first = False
            _print_whole(found, now, phi=arguments.phi)
    return status


def _print_whole(found: OutboxFile, now: float, *, phi: bool) -> None:
    for key, value in _as_json(found, now, phi=phi).items():
        if key == "registration":
            for field, content in value.pop("series").items():
                _print_field(field, content)
            for field, content in value.items():
                _print_field(field, content)
        elif key not in ("pacs_name", "series_instance_uid", "ndicom"):
            _print_field(key, value)
    if found.entry is not None and not phi:
        print("patient data are not shown; --phi shows them")


def _print_field(name: str, value: object) -> None:
    if value is None:
        return
    if name.endswith("_at") and isinstance(value, float):
        with contextlib.suppress(ValueError, OverflowError, OSError):  # not a valid time
            value = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(value))
    print(f"{name + ':':<21} {printable(str(value))}")


def _as_json(found: OutboxFile, now: float, *, phi: bool) -> dict[str, Any]:
    """Return the JSON object of an entry; without its registration if the file cannot be read.

    `now` is the time in seconds since 1970. Patient data are included only if `phi` is True.
    """
    data: dict[str, Any] = {
        "name": found.name,
        "state": found.state.value,
        "written_at": found.written_at,
        "age_seconds": round(max(0.0, now - found.written_at), 1),
        "file": str(found.path),
        "note": found.note,
    }
    entry = found.entry
    if entry is None:
        return data
    refusal = entry.refusal
    series: dict[str, Any] = msgspec.to_builtins(entry.registration.series)
    registration = msgspec.to_builtins(entry.registration)
    registration["series"] = {
        field: value for field, value in series.items() if phi or field in _FIELDS_WITHOUT_PHI
    }
    return data | {
        "pacs_name": entry.registration.series.pacs_name,
        "series_instance_uid": entry.registration.series.series_instance_uid,
        "ndicom": entry.registration.ndicom,
        "attempts": refusal.attempts if refusal else None,
        "refused_at": refusal.at if refusal else None,
        "refused_because": refusal.reason if refusal else None,
        "task_id": entry.task_id,
        "registration": registration,
    }


# ---- retry -----------------------------------------------------------------------------------


def _retry(arguments: argparse.Namespace, settings: Settings, folder: Path) -> int:
    status = 0
    if arguments.names:
        wanted: list[Path] = []
        for name in arguments.names:
            named = _named(folder, name)
            if not named:
                status = EXIT_FAULT
            aside = [path for path in named if state_of(path) is not EntryState.PENDING]
            wanted += aside or named
    else:
        wanted = [
            path
            for path in entry_files(folder)
            if state_of(path) is EntryState.REFUSED
            or (arguments.all and state_of(path) is EntryState.CORRUPT)
        ]
    for path in wanted:
        outcome = requeue(path, sync=settings.fsync)
        if arguments.json:
            what = {"outcome": outcome.name.lower(), "text": outcome.value}
            print_json({"name": path.stem, "ok": outcome.succeeded, **what})
            status = status if outcome.succeeded else EXIT_FAULT
        elif outcome.succeeded:
            print(f"{path.stem[:_SHOWN_NAME_LENGTH]}: {outcome.value}")
        else:
            found = inspect(path) if outcome is RequeueOutcome.CORRUPT else None
            note = f": {found.note}" if found is not None else ""
            print_error(f"{path.stem[:_SHOWN_NAME_LENGTH]} {outcome.value}{note}")
            status = EXIT_FAULT
    if not wanted and not status and not arguments.json:
        print("there is nothing to requeue")
    return status


# ---- entries ---------------------------------------------------------------------------------


def _inspect_all(files: Iterable[Path]) -> Iterator[OutboxFile]:
    for path in files:
        found = inspect(path)
        if found is not None:
            yield found


def _named(folder: Path, name: str) -> list[Path]:
    """Return the files of the entry whose name is `name` or begins with it.

    `name` may have the suffix of a file. If there is no such entry, or several, print an error and
    return an empty list.
    """
    stem = Path(name).stem
    found = entry_files(folder, stem) if len(stem) >= _MIN_PREFIX_LENGTH else []
    names = {path.stem for path in found}
    if stem in names:
        return [path for path in found if path.stem == stem]
    if len(names) > 1:
        print_error(
            f"{printable(name)} is the beginning of {len(names)} names: give more characters"
        )
        return []
    if not found:
        print_error(f"there is no entry {printable(name)} in {folder}: see `oxidicom outbox list`")
    return found
