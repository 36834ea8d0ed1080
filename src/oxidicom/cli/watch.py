"""Watch series arrive, live: what a receiver tells over NATS (LONK), this or the reference."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from oxidicom.cli.arguments import add_json, ae_title, describe, number
from oxidicom.cli.console import ArgumentsError, complain, is_terminal, print_json, printable
from oxidicom.errors import OperatorError
from oxidicom.settings import load_some

if TYPE_CHECKING:
    from oxidicom.notify.lonk_messages import LonkMessage

_MORE: Final = """\
NATS has no memory: what was told before is not seen. It may go and come back, which stderr says.
In AE titles, `_` may stand for a character that NATS reserves.

With --json, one object for each message: "at" (seconds since 1970), "aet", "series_instance_uid",
"type" (count, done, error), and "count" or "error".

environment:
  OXIDICOM_NATS_ADDRESS, OXIDICOM_ROOT_SUBJECT, OXIDICOM_BROKER_CA as for `serve`

examples:
  oxidicom watch --nats nats:4222
  oxidicom watch --aet CT1 --json | jq 'select(.type == "error")'

exit status:
  2     arguments or settings at fault
  130   ended by Ctrl-C, as it is to be
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nats", metavar="ADDRESS", help="host:port, nats:// or tls:// URL")
    parser.add_argument("--aet", type=ae_title, help="only series of this calling AE title")
    parser.add_argument(
        "--rows",
        metavar="N",
        default=20,
        type=number("rows", 1, 1000),
        help="series on the screen at most (%(default)s)",
    )
    add_json(parser, "one object for each message")
    describe(parser, _MORE)


def run(arguments: argparse.Namespace) -> int:
    address, root, ca = _nats(arguments.nats)
    if arguments.json:
        asyncio.run(_listen(address, root, ca, arguments.aet, _print_as_json, complain))
    elif not is_terminal(sys.stdout):
        asyncio.run(_listen(address, root, ca, arguments.aet, _print_line, complain))
    else:
        from oxidicom.cli.watch_screen import WatchScreen

        with WatchScreen(arguments.rows) as screen:
            asyncio.run(
                _listen(address, root, ca, arguments.aet, screen.heard, screen.say, screen.draw)
            )
    return 0


def _nats(given: str | None) -> tuple[str, str, Any]:
    environment = dict(os.environ)
    if given is not None:
        environment["OXIDICOM_NATS_ADDRESS"] = given
    try:
        values = load_some(environment, "nats_address", "root_subject", "broker_ca")
    except OperatorError as error:
        raise ArgumentsError(*error.faults) from error
    if "nats_address" not in values:
        raise ArgumentsError("no NATS to listen to: give --nats, or set OXIDICOM_NATS_ADDRESS")
    return values["nats_address"], values.get("root_subject", "oxidicom"), values.get("broker_ca")


async def _listen(
    address: str,
    root: str,
    ca: Any,
    aet: str | None,
    heard: Callable[[LonkMessage], None],
    say: Callable[[str], None],
    draw: Callable[[], None] | None = None,
) -> None:
    from oxidicom.notify.lonk_subscriber import LonkSubscriber

    try:
        subscriber = LonkSubscriber(address, root, heard, say, calling_ae_title=aet, ca=ca)
    except OSError as error:
        raise ArgumentsError(f"OXIDICOM_BROKER_CA={ca} cannot be used") from error
    listening = asyncio.create_task(subscriber.run())
    while draw is not None and not listening.done():
        draw()
        await asyncio.wait([listening], timeout=0.25)
    await listening


def _print_as_json(heard: LonkMessage) -> None:
    value: dict[str, Any] = {
        "at": round(time.time(), 3),
        "aet": heard.calling_ae_title,
        "series_instance_uid": heard.series_instance_uid,
        "type": heard.kind.value,
    }
    if heard.ndicom is not None:
        value["count"] = heard.ndicom
    if heard.error is not None:
        value["error"] = heard.error
    print_json(value)


def _print_line(heard: LonkMessage) -> None:
    if heard.ndicom is not None:
        what = f"{heard.ndicom} instances"
    elif heard.error is not None:
        what = f"error: {heard.error}"
    else:
        what = heard.kind.value
    line = f"{heard.calling_ae_title}  {heard.series_instance_uid}  {what}"
    print(f"{time.strftime('%H:%M:%S')}  {printable(line)}", flush=True)
