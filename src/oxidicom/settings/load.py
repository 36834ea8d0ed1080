"""Reads the settings from the environment, and reports all their faults together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from oxidicom.errors import OperatorError
from oxidicom.settings.addresses import mask_url
from oxidicom.settings.model import Settings, variables
from oxidicom.settings.parsing import InvalidValueError, is_ae_title, printable
from oxidicom.settings.variable import ValueFormat, Variable

_LOGIN_FIELDS: Final = ("cube_username", "cube_password")
"""Fields of the settings that have no effect without CHRIS_URL."""

_HTTP_FIELDS: Final = ("http_attempts", "pushers", "http_register")
"""Fields of the settings that have no effect unless series are registered over HTTP."""

_TLS_SCHEMES: Final = ("amqps:", "rediss:", "https:")

_SERVICE_LINK: Final = re.compile(
    r"OXIDICOM_(?:\w+_)?(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_\w+)?)"
)
"""Pattern of names that Kubernetes sets for a Service named oxidicom or oxidicom-…"""


class _Found(NamedTuple):
    """One variable that is set, and the format of its value."""

    name: str
    text: str
    format: ValueFormat


class _Environment:
    """The environment variables, read by the rules of the reference.

    OXIDICOM_ and CHRIS_ names may be in upper or lower case; upper case takes precedence.
    White space and quotes around a value are removed. A variable with an empty value is not set.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values: dict[str, str] = {}
        for name in sorted(environ, key=lambda name: name != name.upper()):
            upper = name.upper()
            text = _unquoted(environ[name].strip())
            if text:
                ours = upper.startswith(("OXIDICOM_", "CHRIS_"))
                self._values.setdefault(upper if ours else name, text)

    def get(self, name: str) -> str | None:
        """Return the value of a variable, or None if it is not set."""
        return self._values.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def find(self, variable: Variable) -> list[_Found]:
        """Return those of the variable's name and its synonyms that are set.

        If none is set, return the first older name that is set; otherwise an empty list.
        """
        equals = [
            _Found(name, text, variable.format)
            for name in (variable.name, *variable.synonyms)
            if (text := self.get(name)) is not None
        ]
        if equals:
            return equals
        for name, value_format in variable.older:
            if (text := self.get(name)) is not None:
                return [_Found(name, text, value_format or variable.format)]
        return []


def _unquoted(text: str) -> str:
    """Remove double quotes, which the reference needs around a string that looks like a number."""
    if len(text) >= 2 and text.startswith('"') and text.endswith('"'):
        return text[1:-1].strip()
    return text


def load(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Return the settings and the warnings about them, one line each.

    Raises OperatorError with all faults. The warnings are added to it as notes, because an unknown
    name is often the misspelt name of a setting that is missing.
    """
    environment = _Environment(environ)
    values: dict[str, Any] = {}
    faults: list[str] = []
    warnings: list[str] = []
    for field, variable in variables().items():
        _read(field, variable, environment, values, faults)
        if field == "files_root" and not environment.find(variable):
            faults.append(_missing(variable))
    if (environment.get("OTEL_SDK_DISABLED") or "").lower() == "true":
        values["otel_enabled"] = False

    faults += _cube_login(environment)
    faults += _ports(values, environment)
    warnings += _unknown(environment)
    _check_ae_title(values, faults, warnings)
    if faults:
        error = OperatorError(*faults)
        for warning in warnings:
            error.add_note(warning)
        raise error

    settings = Settings(**values)
    warnings += _suspicious(settings, environment)
    return settings, warnings


def load_some(environ: Mapping[str, str], *fields: str) -> dict[str, Any]:
    """Return the values of those `fields` that are set, by field.

    Raises OperatorError with every fault if any of them is invalid.
    """
    environment = _Environment(environ)
    values: dict[str, Any] = {}
    faults: list[str] = []
    for field in fields:
        _read(field, variables()[field], environment, values, faults)
    if faults:
        raise OperatorError(*faults)
    return values


def _read(
    field: str,
    variable: Variable,
    environment: _Environment,
    values: dict[str, Any],
    faults: list[str],
) -> None:
    """Read one setting into `values`; if it is invalid, add a line to `faults` instead.

    Does nothing if the setting is not set.
    """
    found = environment.find(variable)
    if len({each.text for each in found}) > 1:
        faults.append(_contradiction(variable, found))
    elif found:
        name, text, value_format = found[0]
        try:
            values[field] = value_format.parse(text)
        except InvalidValueError as error:
            faults.append(_fault(name, text, value_format, str(error)))


def _shown(text: str, value_format: ValueFormat) -> str:
    mask = value_format.mask or (mask_url if "://" in text else str)
    return printable(mask(text))


def _fault(name: str, text: str, value_format: ValueFormat, reason: str) -> str:
    reason = f"{reason}; " if reason else ""
    return (
        f"{name}={_shown(text, value_format)}: {reason}expected {value_format.expected},"
        f" for example {name}={value_format.example}"
    )


def _contradiction(variable: Variable, found: list[_Found]) -> str:
    both = " and ".join(f"{each.name}={_shown(each.text, each.format)}" for each in found)
    return (
        f"{both}: these names of one setting have different values; expected one of them,"
        f" for example {variable.name}={variable.format.example}"
    )


def _missing(variable: Variable, named: bool = False) -> str:
    expected, example = variable.format.expected, variable.format.example
    example = f"{variable.name}={example}" if named else example
    return f"{variable.name} is not set: expected {expected}, for example {example}"


def _cube_login(environment: _Environment) -> Iterator[str]:
    """Yield a fault for each of user name and password that is missing beside CUBE's URL."""
    declared = variables()
    if environment.get(declared["cube_url"].name) is None:
        return
    for field in _LOGIN_FIELDS:
        if not environment.find(declared[field]):
            yield _missing(declared[field], named=True)


def _ports(values: Mapping[str, Any], environment: _Environment) -> Iterator[str]:
    """Yield a fault for each of these: TLS files without a TLS port, a TLS port without certificate
    or key, two equal ports, no port to listen on."""
    declared = variables()
    port, tls_port = declared["listener_port"], declared["tls_port"]
    files = [declared[field] for field in ("tls_cert", "tls_key", "tls_client_ca")]
    given = [variable.name for variable in files if environment.find(variable)]
    plain, tls = values.get("listener_port", 11111), values.get("tls_port")
    tls_port_read = "tls_port" in values
    if given and not environment.find(tls_port):
        yield (
            f"{' and '.join(given)} without {tls_port.name}: expected a port for TLS,"
            f" for example {tls_port.name}={tls_port.format.example}, or off"
        )
    if tls is not None:
        for variable in files[:2]:
            if variable.name not in given:
                yield _missing(variable, named=True)
        if plain == tls != 0:
            yield (
                f"{port.name} and {tls_port.name} are both {tls}: expected two ports, for example"
                f" {tls_port.name}={tls_port.format.example}, or {port.name}=off"
            )
    elif plain is None and (tls_port_read or not environment.find(tls_port)):
        yield (
            f"{port.name}=off without {tls_port.name}: there is no port to listen on;"
            f" expected one of them, for example {tls_port.name}={tls_port.format.example}"
        )


def _unknown(environment: _Environment) -> Iterator[str]:
    known = [
        name
        for variable in variables().values()
        for name in variable.names
        if name.startswith("OXIDICOM_")
    ]
    for name in environment:
        if (
            name.startswith("OXIDICOM_")
            and name not in known
            and not _is_service_link(name, environment.get(name) or "")
        ):
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            yield f"{printable(name)} is unknown and has no effect; did you mean {nearest}?"


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))


def _check_ae_title(values: dict[str, Any], faults: list[str], warnings: list[str]) -> None:
    """Add a line to `faults` or `warnings` if our own AE title is invalid.

    It is a fault only if the called AE titles of peers are compared with it, because the reference
    accepts any text.
    """
    title = values.get("scp_aet")
    if title is None or is_ae_title(title):
        return
    variable = variables()["scp_aet"]
    line = _fault(variable.name, title, variable.format, "no peer can call us by this title")
    (faults if values.get("scp_check_called_aet") else warnings).append(line)


def _suspicious(settings: Settings, environment: _Environment) -> Iterator[str]:
    """Yield a warning if neither broker nor CUBE is set, else if the authorities have no effect.

    Also yield one for each setting of CUBE's API that has no effect.
    """
    declared = variables()
    broker, url, authority = declared["broker"], declared["cube_url"], declared["broker_ca"]
    if settings.broker is None and settings.cube_url is None:
        yield (
            f"No broker is set: registrations stay in the outbox on disk"
            f" ({settings.state_dir}) and CUBE does not learn of any series; set {broker.name},"
            f" for example {broker.name}={broker.format.example}"
        )
    elif (
        settings.broker_ca is not None
        and settings.nats_address is None
        and not any(
            (address or "").lower().startswith(_TLS_SCHEMES)
            for address in (settings.broker, settings.cube_url)
        )
    ):
        name = url.name if settings.broker is None else broker.name
        yield f"{authority.name} has no effect: {name} is not a URL with TLS"
    for field in (*_LOGIN_FIELDS, *_HTTP_FIELDS):
        for name, _, _ in environment.find(declared[field]):
            if settings.cube_url is None:
                yield f"{name} has no effect: {url.name} is not set"
            elif settings.asks_cube and field in _HTTP_FIELDS:
                yield f"{name} has no effect: series are registered through {broker.name}"
