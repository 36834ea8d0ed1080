"""Probe of the ports: whether `serve` could listen on each."""

from __future__ import annotations

import errno
import socket

from oxidicom.cli.probes import Finding, Verdict
from oxidicom.settings import Settings


def probe_listener(settings: Settings) -> list[Finding]:
    """Listen on each port that is set for a moment; return a finding for each."""
    host, admin_host = settings.listener_host, settings.admin_host
    ports = (
        (host, settings.listener_port, "OXIDICOM_LISTENER", ""),
        (host, settings.tls_port, "OXIDICOM_TLS", " for TLS"),
        (admin_host, settings.admin_port, "OXIDICOM_ADMIN", " for health, metrics and status"),
    )
    return [
        _probe(host, port, variables, purpose)
        for host, port, variables, purpose in ports
        if port is not None
    ]


def _probe(host: str, port: int, variables: str, purpose: str) -> Finding:
    """Listen on one port for a moment and return the finding.

    `variables` is the prefix of the variable that sets the port, such as OXIDICOM_TLS; `purpose` is
    appended to the text of success.
    """
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(1)
    except OSError as error:
        return Finding("listener", Verdict.FAULT, _explain(error, host, port, variables))
    text = f"{host}:{port} is free" if port else f"will listen on any free port of {host}"
    return Finding("listener", Verdict.OK, text + purpose)


def _explain(error: OSError, host: str, port: int, variables: str) -> str:
    variable = f"{variables}_PORT"
    host_variable = "OXIDICOM_ADMIN_HOST" if "ADMIN" in variables else "OXIDICOM_LISTENER_HOST"
    if isinstance(error, socket.gaierror):
        return f"the name {host} does not resolve: correct {host_variable}"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{host}:{port} is in use, perhaps by another oxidicom: stop the program that"
                f" listens there, or set another {variable}"
            )
        case errno.EACCES:
            return (
                f"this user may not listen on port {port}: set {variable} to 1024 or more, or"
                " grant CAP_NET_BIND_SERVICE"
            )
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine: correct {host_variable}"
    return f"cannot listen on {host}:{port}: {error.strerror}"
