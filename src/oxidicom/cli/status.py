"""Show the state of a running receiver: whether it is ready, what arrives and what failed."""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from oxidicom.cli.arguments import add_json, seconds, set_epilog
from oxidicom.cli.console import EXIT_FAULT, ArgumentsError, is_terminal, print_error
from oxidicom.errors import OxidicomError

if TYPE_CHECKING:
    from oxidicom.admin.model import ReceiverStatus

_MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Greatest number of bytes that are read of an answer."""

_POLL_INTERVAL_S: Final = 1.0
"""Seconds between two queries of --watch."""

_EPILOG: Final = """\
Asks the admin endpoint of `serve`, which exists if OXIDICOM_ADMIN_PORT is set there.

environment:
  OXIDICOM_ADMIN_PORT, OXIDICOM_ADMIN_HOST   address of the endpoint if there is no --url

examples:
  oxidicom status --watch
  oxidicom status --url http://10.0.0.5:8080 --json | jq .totals
  HEALTHCHECK CMD ["oxidicom", "status", "--quiet"]

exit status:
  0     the receiver is ready
  1     it is not ready, or cannot be reached
  2     the arguments or the settings are invalid
  130   with --watch: ended by Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="URL of the admin endpoint (http://127.0.0.1:PORT)")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        default=5.0,
        type=seconds,
        help="time limit for the answer (%(default)g)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--watch", action="store_true", help="show it again every second until Ctrl-C"
    )
    mode.add_argument(
        "--quiet",
        action="store_true",
        help="print nothing, for health checks: only the exit status counts",
    )
    add_json(parser, "print the answer of the endpoint, one JSON object a line")
    set_epilog(parser, _EPILOG)


class _NoAnswerError(OxidicomError):
    """The endpoint gave no valid answer. The text says why and, where possible, what to do."""


def run(arguments: argparse.Namespace) -> int:
    endpoint = _Endpoint(arguments.url or _default_url(), arguments.timeout)
    try:
        if arguments.quiet:
            code, _ = endpoint.get("/readyz")
            return 0 if code == 200 else EXIT_FAULT
        if arguments.watch:
            _watch(endpoint, as_json=arguments.json)
        answer, status = _query(endpoint)
    except _NoAnswerError as error:
        if not arguments.quiet:
            print_error(str(error))
        return EXIT_FAULT
    if arguments.json:
        _print_raw(answer)
    else:
        from oxidicom.cli.status_view import show

        show(status)
    return 0 if status.ready else EXIT_FAULT


def _default_url() -> str:
    """Return the URL of the endpoint that the environment names.

    Raises ArgumentsError without a port. The settings are not loaded, which would take longer:
    health checks run every few seconds.
    """
    port = os.environ.get("OXIDICOM_ADMIN_PORT", "").strip()
    if not port.isdecimal() or int(port) == 0:
        raise ArgumentsError(
            "the address is unknown: give --url, or set OXIDICOM_ADMIN_PORT as for `serve`"
        )
    host = os.environ.get("OXIDICOM_ADMIN_HOST", "").strip()
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Endpoint:
    """The admin endpoint of a receiver."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._parts = _parsed(url)
        self._timeout = timeout

    def get(self, path: str) -> tuple[int, bytes]:
        """Send a GET request; return the HTTP status and the body. Raises _NoAnswerError.

        The body is cut after `_MAX_ANSWER_BYTES`.
        """
        parts = self._parts
        connection_type = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = connection_type(parts.hostname or "", parts.port, timeout=self._timeout)
        try:
            connection.request("GET", parts.path.rstrip("/") + path)
            response = connection.getresponse()
            return response.status, response.read(_MAX_ANSWER_BYTES)
        except ConnectionRefusedError as error:
            raise _NoAnswerError(
                f"nothing listens at {self._url}: `serve` does not run, or it runs without"
                " OXIDICOM_ADMIN_PORT or with another port"
            ) from error
        except TimeoutError as error:
            raise _NoAnswerError(
                f"no answer from {self._url} within {self._timeout:g} s: the receiver hangs, or a"
                " firewall blocks the connection"
            ) from error
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            words = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
            raise _NoAnswerError(f"no answer from {self._url}: {words}; correct --url") from error
        finally:
            connection.close()


def _parsed(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        valid = False
    if not valid:
        raise ArgumentsError(f"{url}: expected a URL such as http://127.0.0.1:8080")
    return parts


def _query(endpoint: _Endpoint) -> tuple[bytes, ReceiverStatus]:
    import msgspec

    from oxidicom.admin.model import ReceiverStatus

    code, body = endpoint.get("/status")
    try:
        if code != 200:
            raise _NoAnswerError(f"HTTP status {code}: this is not an admin endpoint of oxidicom")
        return body, msgspec.json.decode(body, type=ReceiverStatus)
    except msgspec.MsgspecError as error:
        raise _NoAnswerError(
            f"the answer cannot be decoded ({error}): is it another version?"
        ) from error


def _print_raw(answer: bytes) -> None:
    print(answer.decode().strip(), flush=True)


def _watch(endpoint: _Endpoint, *, as_json: bool) -> None:
    """Show the status, or the error, every second until Ctrl-C. It never returns."""
    if as_json or not is_terminal(sys.stdout):
        from oxidicom.cli.status_view import show

        while True:
            try:
                answer, status = _query(endpoint)
                if as_json:
                    _print_raw(answer)
                else:
                    show(status)
            except _NoAnswerError as error:
                print_error(str(error))
            time.sleep(_POLL_INTERVAL_S)
    from oxidicom.cli.status_view import StatusScreen

    with StatusScreen() as screen:
        while True:
            try:
                screen.update(_query(endpoint)[1])
            except _NoAnswerError as error:
                screen.show_error(str(error))
            time.sleep(_POLL_INTERVAL_S)
