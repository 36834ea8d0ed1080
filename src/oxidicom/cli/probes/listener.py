"""Could we listen where we are told to?"""

from __future__ import annotations

import errno
import socket

from oxidicom.cli.probes import Finding, Verdict
from oxidicom.settings import Settings


def probe_listener(settings: Settings) -> list[Finding]:
    host = settings.listener_host
    ports = (
        (settings.listener_port, "OXIDICOM_LISTENER_PORT", ""),
        (settings.tls_port, "OXIDICOM_TLS_PORT", " for TLS"),
    )
    return [
        _probe(host, port, variable, purpose)
        for port, variable, purpose in ports
        if port is not None
    ]


def _probe(host: str, port: int, variable: str, purpose: str) -> Finding:
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(1)
    except OSError as error:
        return Finding("listener", Verdict.FAULT, _trouble(error, host, port, variable))
    text = f"{host}:{port} is free" if port else f"any free port of {host}"
    return Finding("listener", Verdict.OK, text + purpose)


def _trouble(error: OSError, host: str, port: int, variable: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name {host} does not resolve: correct OXIDICOM_LISTENER_HOST"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{host}:{port} is taken, perhaps by an oxidicom that runs already: stop what"
                f" listens there, or set another {variable}"
            )
        case errno.EACCES:
            return (
                f"this user may not listen on port {port}: set an {variable} of 1024"
                " or more, or grant CAP_NET_BIND_SERVICE"
            )
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine: correct OXIDICOM_LISTENER_HOST"
    return f"cannot listen on {host}:{port}: {error.strerror}"
