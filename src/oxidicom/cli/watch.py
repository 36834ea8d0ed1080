"""Show series as they arrive: the progress messages (LONK) of a receiver over NATS."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from oxidicom.cli.arguments import add_json, ae_title, number, set_epilog
from oxidicom.cli.console import ArgumentsError, is_terminal, print_error, print_json, printable
from oxidicom.errors import OperatorError
from oxidicom.settings import load_some

if TYPE_CHECKING:
    from oxidicom.notify.lonk_messages import LonkMessage

_REDRAW_S: Final = 0.25
"""Seconds between two updates of the screen."""

_EPILOG: Final = """\
NATS does not keep messages: those that were published before are not shown. If NATS becomes
unreachable, stderr says so, and the command connects again. Each character of an AE title that
NATS reserves is shown as `_`.

With --json there is one object for each message: "at" (seconds since 1970), "aet",
"series_instance_uid", "type" (count, done, error), and "count" or "error".

environment:
  OXIDICOM_NATS_ADDRESS, OXIDICOM_ROOT_SUBJECT, OXIDICOM_BROKER_CA as for `serve`

examples:
  oxidicom watch --nats nats:4222
  oxidicom watch --aet CT1 --json | jq 'select(.type == "error")'

exit status:
  2     the arguments or the settings are invalid
  130   ended by Ctrl-C; it does not end in another way
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nats", metavar="ADDRESS", help="host:port, or a nats:// or tls:// URL")
    parser.add_argument("--aet", type=ae_title, help="show only series of this calling AE title")
    parser.add_argument(
        "--rows",
        metavar="N",
        default=20,
        type=number("rows", 1, 1000),
        help="greatest number of series on the screen (%(default)s)",
    )
    add_json(parser, "print one JSON object for each message")
    set_epilog(parser, _EPILOG)


def run(arguments: argparse.Namespace) -> int:
    address, root, ca = _nats(arguments.nats)
    if arguments.json:
        asyncio.run(_listen(address, root, ca, arguments.aet, _print_as_json, print_error))
    elif not is_terminal(sys.stdout):
        asyncio.run(_listen(address, root, ca, arguments.aet, _print_line, print_error))
    else:
        from oxidicom.cli.watch_screen import WatchScreen

        with WatchScreen(arguments.rows) as screen:
            asyncio.run(
                _listen(address, root, ca, arguments.aet, screen.add, screen.set_state, screen.draw)
            )
    return 0


def _nats(given: str | None) -> tuple[str, str, Any]:
    """Return the NATS address, the root subject and the file of authorities or None.

    The address is `given`, or the one in the environment if it is None. Raises ArgumentsError.
    """
    environment = dict(os.environ)
    if given is not None:
        environment["OXIDICOM_NATS_ADDRESS"] = given
    try:
        values = load_some(environment, "nats_address", "root_subject", "broker_ca")
    except OperatorError as error:
        raise ArgumentsError(*error.faults) from error
    if "nats_address" not in values:
        raise ArgumentsError("no NATS server is set: give --nats, or set OXIDICOM_NATS_ADDRESS")
    return values["nats_address"], values.get("root_subject", "oxidicom"), values.get("broker_ca")


async def _listen(
    address: str,
    root: str,
    ca: Any,
    aet: str | None,
    on_message: Callable[[LonkMessage], None],
    on_state: Callable[[str], None],
    draw: Callable[[], None] | None = None,
) -> None:
    from oxidicom.notify.lonk_subscriber import LonkSubscriber

    try:
        subscriber = LonkSubscriber(
            address, root, on_message, on_state, calling_ae_title=aet, ca=ca
        )
    except OSError as error:
        raise ArgumentsError(f"OXIDICOM_BROKER_CA={ca} cannot be used") from error
    listening = asyncio.create_task(subscriber.run())
    while draw is not None and not listening.done():
        draw()
        await asyncio.wait([listening], timeout=_REDRAW_S)
    await listening


def _print_as_json(message: LonkMessage) -> None:
    value: dict[str, Any] = {
        "at": round(time.time(), 3),
        "aet": message.calling_ae_title,
        "series_instance_uid": message.series_instance_uid,
        "type": message.kind.value,
    }
    if message.ndicom is not None:
        value["count"] = message.ndicom
    if message.error is not None:
        value["error"] = message.error
    print_json(value)


def _print_line(message: LonkMessage) -> None:
    if message.ndicom is not None:
        text = f"{message.ndicom} instances"
    elif message.error is not None:
        text = f"error: {message.error}"
    else:
        text = message.kind.value
    line = f"{message.calling_ae_title}  {message.series_instance_uid}  {text}"
    print(f"{time.strftime('%H:%M:%S')}  {printable(line)}", flush=True)
