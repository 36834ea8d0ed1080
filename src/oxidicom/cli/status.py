"""Show how a running receiver stands: whether it is ready, what arrives, what failed."""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from oxidicom.cli.arguments import add_json, describe, seconds
from oxidicom.cli.console import EXIT_FAULT, ArgumentsError, complain, is_terminal
from oxidicom.errors import OxidicomError

if TYPE_CHECKING:
    from oxidicom.admin.model import ReceiverStatus

_MOST: Final = 16 * 1024 * 1024
"""Bytes of an answer."""

_INTERVAL: Final = 1.0

_MORE: Final = """\
Asks the admin endpoint of `serve`, which is off unless OXIDICOM_ADMIN_PORT is set there.

environment:
  OXIDICOM_ADMIN_PORT, OXIDICOM_ADMIN_HOST   where, if there is no --url

examples:
  oxidicom status --watch
  oxidicom status --url http://10.0.0.5:9180 --json | jq .totals
  HEALTHCHECK CMD ["oxidicom", "status", "--quiet"]

exit status:
  0     ready
  1     not ready, or not reachable
  2     arguments or settings at fault
  130   with --watch: ended by Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="of the admin endpoint (http://127.0.0.1:PORT)")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        default=5.0,
        type=seconds,
        help="for the answer (%(default)g)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="go on, once a second")
    how.add_argument("--quiet", action="store_true", help="by the exit status only: cheap")
    add_json(parser, "the answer as it comes, an object a line")
    describe(parser, _MORE)


class _NoAnswerError(OxidicomError):
    """With what to do."""


def run(arguments: argparse.Namespace) -> int:
    endpoint = _Endpoint(arguments.url or _default_url(), arguments.timeout)
    try:
        if arguments.quiet:
            status, _ = endpoint.get("/readyz")
            return 0 if status == 200 else EXIT_FAULT
        if arguments.watch:
            _watch(endpoint, as_json=arguments.json)
        answer, status_of = _asked(endpoint)
    except _NoAnswerError as error:
        if not arguments.quiet:
            complain(str(error))
        return EXIT_FAULT
    if arguments.json:
        _print_raw(answer)
    else:
        from oxidicom.cli.status_view import show

        show(status_of)
    return 0 if status_of.ready else EXIT_FAULT


def _default_url() -> str:
    """Read by hand, without the settings' machinery: a health check runs every few seconds."""
    port = os.environ.get("OXIDICOM_ADMIN_PORT", "").strip()
    if not port.isdecimal() or int(port) == 0:
        raise ArgumentsError("where is it? Give --url, or set OXIDICOM_ADMIN_PORT as for `serve`")
    host = os.environ.get("OXIDICOM_ADMIN_HOST", "").strip()
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Endpoint:
    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._parts = _parsed(url)
        self._timeout = timeout

    def get(self, path: str) -> tuple[int, bytes]:
        """ReceiverStatus and body. Raises _NoAnswerError."""
        parts = self._parts
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.hostname or "", parts.port, timeout=self._timeout)
        try:
            connection.request("GET", parts.path.rstrip("/") + path)
            response = connection.getresponse()
            return response.status, response.read(_MOST)
        except ConnectionRefusedError as error:
            raise _NoAnswerError(
                f"nothing listens at {self._url}: `serve` does not run, or without"
                " OXIDICOM_ADMIN_PORT, or on another port"
            ) from error
        except TimeoutError as error:
            raise _NoAnswerError(
                f"no answer from {self._url} within {self._timeout:g} s: it hangs, or a firewall"
                " is between"
            ) from error
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            words = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
            raise _NoAnswerError(f"no answer from {self._url}: {words}; correct --url") from error
        finally:
            connection.close()


def _parsed(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        well = False
    if not well:
        raise ArgumentsError(f"{url}: expected a URL such as http://127.0.0.1:9180")
    return parts


def _asked(endpoint: _Endpoint) -> tuple[bytes, ReceiverStatus]:
    import msgspec

    from oxidicom.admin.model import ReceiverStatus

    code, body = endpoint.get("/status")
    try:
        if code != 200:
            raise _NoAnswerError(f"HTTP status {code}: that is no admin endpoint of oxidicom")
        return body, msgspec.json.decode(body, type=ReceiverStatus)
    except msgspec.MsgspecError as error:
        raise _NoAnswerError(
            f"the answer is not understood ({error}): of another version?"
        ) from error


def _print_raw(answer: bytes) -> None:
    print(answer.decode().strip(), flush=True)


def _watch(endpoint: _Endpoint, *, as_json: bool) -> None:
    """Until Ctrl-C, whether it answers or not."""
    if as_json or not is_terminal(sys.stdout):
        from oxidicom.cli.status_view import show

        while True:
            try:
                answer, status = _asked(endpoint)
                if as_json:
                    _print_raw(answer)
                else:
                    show(status)
            except _NoAnswerError as error:
                complain(str(error))
            time.sleep(_INTERVAL)
    from oxidicom.cli.status_view import StatusScreen

    with StatusScreen() as screen:
        while True:
            try:
                screen.update(_asked(endpoint)[1])
            except _NoAnswerError as error:
                screen.away(str(error))
            time.sleep(_INTERVAL)
