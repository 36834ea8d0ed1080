"""Logging as text (console) or as JSON lines, without patient data.

The messages and fields of this package contain no patient data (see `oxidicom.logevents`). From
other packages, only the constant part of a message is written, and only the type of an exception
and where it was raised (decision 39).
"""

from __future__ import annotations

import asyncio
import json
import linecache
import logging
import math
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, TextIO

from oxidicom.errors import OperatorError
from oxidicom.logevents import describe, event
from oxidicom.telemetry.stream_handler import BoundedStreamHandler

LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "off": logging.CRITICAL + 10,
}

_LEVEL_NAMES: Final = {logging.WARNING: "WARN"}
_LEVEL_COLOURS: Final = {
    "DEBUG": "34",
    "INFO": "32",
    "WARN": "33",
    "ERROR": "31",
    "CRITICAL": "1;31",
}
_RESERVED_FIELDS: Final = frozenset(
    {"timestamp", "level", "logger", "message", "exception", "traceback"}
)
_MAX_FRAMES: Final = 40
_MAX_ERRORS: Final = 8
"""Greatest number of exceptions of one chain or group that are written."""

MAX_FIELD_CHARS: Final = 1024
"""Number of characters to which a field is cut; a peer may send a UID of 64 KiB."""

_UNQUOTED: Final = re.compile(r"[\w.:/+@-]+", re.ASCII)
_FORMAT_CONVERSION: Final = re.compile(r"%(?:\(\w+\))?[-#0 +]*[\d*]*(?:\.[\d*]+)?[a-zA-Z]")
_LOOP_MESSAGES: Final = (
    "Exception in callback",
    "Exception in default exception handler",
    "Fatal error on transport",
    "Fatal read error on socket transport",
    "Fatal write error on socket transport",
    "Future exception was never retrieved",
    "SSL error in data received",
    "Task exception was never retrieved",
    "Task was destroyed but it is pending",
    "Unhandled exception in client_connected_cb",
    "Unhandled exception in event loop",
    "socket.accept() out of system resource",
)
"""The constant beginnings of the error messages of asyncio and uvloop. The rest of such a message
may contain arguments of callbacks."""

_logger = logging.getLogger("oxidicom.telemetry")


def configure(
    level: str,
    format: Literal["console", "json"],
    stream: TextIO | None = None,
    *,
    log_phi: bool = False,
    **constant_fields: object,
) -> None:
    """Write the records of `oxidicom` of `level` or above to `stream`, with `constant_fields`.

    Records of other packages are written if they are of level WARNING or above as well. `stream` is
    standard output by default, as in the reference (A10). With `log_phi` complete messages are
    written, which may contain patient data. A further call replaces the configuration. Raises
    OperatorError for a level that is not in `LEVELS`.
    """
    number = LEVELS.get(level.lower())
    if number is None:
        raise OperatorError(f"log level {level!r}: expected one of {', '.join(LEVELS)}")
    target = sys.stdout if stream is None else stream
    handler = BoundedStreamHandler(target)
    if format == "json":
        handler.setFormatter(JsonFormatter(log_phi))
    else:
        handler.setFormatter(ConsoleFormatter(log_phi, colour=_takes_colour(target)))
    if constant_fields:
        handler.addFilter(partial(_add_fields, constant_fields))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, BoundedStreamHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING))
    # These log each failed attempt to connect; this package logs each outage once.
    for client in ("aiormq", "aio_pika", "nats"):
        logging.getLogger(client).setLevel(logging.CRITICAL)
    logging.getLogger("oxidicom").setLevel(number)


def _add_fields(constant_fields: dict[str, object], record: logging.LogRecord) -> bool:
    fields = getattr(record, "fields", None)
    record.fields = constant_fields | fields if isinstance(fields, dict) else constant_fields
    return True


def log_uncaught_errors() -> None:
    """Log the warnings and uncaught exceptions that Python itself would print.

    Python would print their texts, which may contain values; the log contains no values. Call this
    once per process.
    """
    warnings.showwarning = _on_warning
    sys.excepthook = _on_uncaught
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_error


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop.

    It replaces asyncio's exception handler, which writes the arguments of callbacks.
    """
    message = str(context.get("message", ""))
    event(
        _logger,
        logging.ERROR,
        "unhandled error in the event loop",
        exc_info=context.get("exception"),
        context=next((known for known in _LOOP_MESSAGES if message.startswith(known)), None),
    )


class ConsoleFormatter(logging.Formatter):
    """Formats a record as `2026-11-22T19:00:00.123Z  INFO oxidicom.net: message key=value`."""

    def __init__(self, log_phi: bool, *, colour: bool) -> None:
        super().__init__()
        self._phi = log_phi
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = _level(record)
        stamp, padded, name = _timestamp(record), f"{level:>5}", record.name
        if self._colour:
            stamp, name = f"\x1b[2m{stamp}\x1b[0m", f"\x1b[2m{name}\x1b[0m"
            padded = f"\x1b[{_LEVEL_COLOURS.get(level, '0')}m{padded}\x1b[0m"
        parts = [f"{stamp} {padded} {name}: {_printable(_message(record, self._phi))}"]
        fields = dict(_fields(record, self._phi))
        error = _error(record)
        if error is not None:
            fields["exception"] = describe(error, phi=self._phi)
        parts += [f"{_quoted(key)}={_quoted(value)}" for key, value in fields.items()]
        line = " ".join(parts)
        if error is None:
            return line
        return "\n    ".join([line, *map(_printable, _traceback(error, self._phi))])


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: timestamp, level, logger, message, the record's fields,
    and for an error `exception` and `traceback`. A field of one of these names gets a trailing
    `_`."""

    def __init__(self, log_phi: bool) -> None:
        super().__init__()
        self._phi = log_phi

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": _timestamp(record),
            "level": _level(record),
            "logger": record.name,
            "message": _message(record, self._phi),
        }
        for key, value in _fields(record, self._phi):
            line[f"{key}_" if key in _RESERVED_FIELDS else key] = value
        error = _error(record)
        if error is not None:
            line["exception"] = describe(error, phi=self._phi)
            line["traceback"] = "\n".join(_traceback(error, self._phi))
        return json.dumps(line, default=str)


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.created % 1 * 1000):03}Z"


def _level(record: logging.LogRecord) -> str:
    return _LEVEL_NAMES.get(record.levelno, record.levelname)


def _is_ours(name: str) -> bool:
    return name == "oxidicom" or name.startswith("oxidicom.")


def _message(record: logging.LogRecord, phi: bool) -> str:
    template = str(record.msg)
    if phi or _is_ours(record.name):
        if not record.args:
            return template
        arguments: Any = record.args
        if isinstance(arguments, tuple):
            arguments = tuple(_safe(argument, phi) for argument in arguments)
        try:
            return str(template % arguments)
        except (TypeError, ValueError, KeyError):
            return template
    if record.args:
        return _FORMAT_CONVERSION.sub("…", template)
    return template if _is_literal_in_source(template, record) else f"… ({_place(record)})"


def _is_literal_in_source(text: str, record: logging.LogRecord) -> bool:
    """Return whether `text` is a string literal in the source file that logged it: a constant.

    A message without arguments may have been formatted before the call, and then contains values.
    """
    literals = (f'"{text}"', f"'{text}'")
    lines = linecache.getlines(record.pathname)
    return any(literal in line for line in lines for literal in literals)


def _place(record: logging.LogRecord) -> str:
    return f"{record.filename}:{record.lineno}"


def _fields(record: logging.LogRecord, phi: bool) -> Iterator[tuple[str, object]]:
    fields = getattr(record, "fields", None)
    if isinstance(fields, dict):
        for key, value in fields.items():
            yield str(key), _safe(value, phi)


def _safe(value: object, phi: bool) -> object:
    if isinstance(value, BaseException):
        return describe(value, phi=phi)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity and no NaN
    if isinstance(value, str):
        return value if len(value) <= MAX_FIELD_CHARS else value[:MAX_FIELD_CHARS] + "…"
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_safe(item, phi) for item in value]
    try:
        return str(value)
    except Exception:
        return f"({type(value).__name__})"


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _traceback(error: BaseException, phi: bool) -> list[str]:
    """Return the lines of a traceback: files, line numbers and functions, but no values.

    Includes the causes of `error` and the members of its group, up to _MAX_ERRORS exceptions.
    """
    lines: list[str] = []
    seen: set[int] = set()
    queue: list[tuple[str, BaseException]] = [("", error)]
    while queue and len(seen) < _MAX_ERRORS:
        relation, current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        lines.append(f"{relation}{describe(current, phi=phi)}")
        frames = list(traceback.walk_tb(current.__traceback__))[-_MAX_FRAMES:]
        for frame, number in frames:
            code = frame.f_code
            lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}')
        if isinstance(current, BaseExceptionGroup):
            queue += [("with: ", member) for member in current.exceptions]
        if current.__cause__ is not None:
            queue.append(("caused by: ", current.__cause__))
        elif current.__context__ is not None and not current.__suppress_context__:
            queue.append(("while handling: ", current.__context__))
    return lines


def _printable(text: str) -> str:
    """Return `text` with its unprintable characters escaped: these could forge log lines or control
    a terminal."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _quoted(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = value if isinstance(value, str) else str(value)
    if _UNQUOTED.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _takes_colour(stream: TextIO) -> bool:
    try:
        return stream.isatty() and not os.environ.get("NO_COLOR")
    except (AttributeError, ValueError):
        return False


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    event(
        _logger,
        logging.WARNING,
        "Python warning",
        category=category.__name__,
        where=f"{filename}:{lineno}",
    )


def _on_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        event(_logger, logging.CRITICAL, "uncaught error", exc_info=error)


def _on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    event(_logger, logging.ERROR, "error in a destructor", exc_info=unraisable.exc_value)


def _on_thread_error(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread else None
    event(_logger, logging.ERROR, "thread died", exc_info=arguments.exc_value, thread=name)
