"""Probe of CUBE: whether series can be registered over HTTP."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit

from oxidicom.cli.probes import (
    PROBE_LIMIT_S,
    CertificatesError,
    Finding,
    Server,
    Verdict,
    client_context,
    explain_connection_error,
)
from oxidicom.settings import Settings

_VARIABLE: Final = "CHRIS_URL"
_RESOURCES: Final = {"instance": "pacsfiles/", "series": "pacs/series/"}
"""The resource, relative to CUBE's URL, that registrations are posted to, by the value of
OXIDICOM_HTTP_REGISTER."""


def probe_cube(settings: Settings) -> list[Finding]:
    """Return a finding on whether CUBE accepts the login and registrations.

    Returns no finding without CHRIS_URL; `probe_broker` reports it if neither is set.
    """
    if settings.cube_url is None:
        return []
    url = urlsplit(settings.cube_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    server = Server(f"{url.hostname}:{port}", "HTTP", _VARIABLE)
    try:
        fault = _query(settings, settings.cube_url, client_context(settings), server.where)
    except CertificatesError as error:
        fault = str(error)
    except Exception as error:
        fault = explain_connection_error(error, server)
    if fault is not None:
        return [Finding("CUBE", Verdict.FAULT, fault)]
    resource = _RESOURCES[settings.http_register]
    return [Finding("CUBE", Verdict.OK, f"{server.where} accepts our login and has {resource}")]


def _query(settings: Settings, url: str, context: ssl.SSLContext, where: str) -> str | None:
    """Query CUBE and return what is wrong with its answers, or None.

    Raises the errors of httpx if there is no answer.
    """
    import httpx  # imported late, because only this probe needs it

    resource = _RESOURCES[settings.http_register]
    auth = httpx.BasicAuth(settings.cube_username or "", settings.cube_password or "")
    headers = {"Accept": "application/json"}
    with httpx.Client(verify=context, timeout=PROBE_LIMIT_S, auth=auth, headers=headers) as client:
        with client.stream("GET", url) as answer:
            fault = _fault(answer.status_code, where)
        if fault is not None:
            return fault
        with client.stream("GET", url + resource) as answer:
            # CUBE lists the allowed methods in every answer (RFC 9110 10.2.1), so a GET shows them.
            allowed = answer.headers.get("allow")
            if answer.status_code in (404, 405) or (allowed and "POST" not in allowed.upper()):
                return (
                    f"{where} does not accept registrations at {resource}: set another"
                    " OXIDICOM_HTTP_REGISTER, or OXIDICOM_CELERY_BROKER instead of CHRIS_URL"
                )
            return _fault(answer.status_code, where)


def _fault(status: int, where: str) -> str | None:
    if status == 401:
        return f"{where} refuses this user or password: correct CHRIS_USERNAME and CHRIS_PASSWORD"
    if status == 403:
        return (
            f"{where} does not let this user use its API: correct CHRIS_USERNAME and"
            " CHRIS_PASSWORD, or ask CUBE's administrator to grant the user permissions"
        )
    if 300 <= status < 400:
        return f"{where} redirects ({status}), and redirects are not followed: correct {_VARIABLE}"
    if status >= 500 or status in (408, 429):
        return f"{where} answers {status}: CUBE, or a proxy in front of it, has an error"
    if status >= 400:
        return f"{where} answers {status}: this is not CUBE's API; correct {_VARIABLE}"
    return None
