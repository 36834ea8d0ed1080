"""Could registrations reach CUBE over HTTP?"""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit

from oxidicom.cli.probes import (
    LIMIT,
    CertificatesError,
    Finding,
    Server,
    Verdict,
    client_context,
    connection_trouble,
)
from oxidicom.settings import Settings

_VARIABLE: Final = "CHRIS_URL"
_RESOURCES: Final = {"instance": "pacsfiles/", "series": "pacs/series/"}
"""Where registrations go, relative to CUBE's URL (notify/cube_bodies.py)."""


def probe_cube(settings: Settings) -> list[Finding]:
    """Nothing where it is not asked for: the broker's probe tells of both ways."""
    if settings.cube_url is None:
        return []
    url = urlsplit(settings.cube_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    server = Server(f"{url.hostname}:{port}", "HTTP", _VARIABLE)
    try:
        fault = _look(settings, settings.cube_url, client_context(settings), server.where)
    except CertificatesError as error:
        fault = str(error)
    except Exception as error:
        fault = connection_trouble(error, server)
    if fault is not None:
        return [Finding("CUBE", Verdict.FAULT, fault)]
    resource = _RESOURCES[settings.http_register]
    return [Finding("CUBE", Verdict.OK, f"{server.where} lets us in; it has {resource}")]


def _look(settings: Settings, url: str, context: ssl.SSLContext, where: str) -> str | None:
    """What is wrong with its answers, if anything."""
    import httpx  # late, like all that only one command needs

    resource = _RESOURCES[settings.http_register]
    auth = httpx.BasicAuth(settings.cube_username or "", settings.cube_password or "")
    headers = {"Accept": "application/json"}
    with httpx.Client(verify=context, timeout=LIMIT, auth=auth, headers=headers) as client:
        with client.stream("GET", url) as answer:
            fault = _fault(answer.status_code, where)
        if fault is not None:
            return fault
        with client.stream("GET", url + resource) as answer:
            # CUBE says with every answer what else it would take there (RFC 9110 10.2.1).
            allowed = answer.headers.get("allow")
            if answer.status_code in (404, 405) or (allowed and "POST" not in allowed.upper()):
                return (
                    f"{where} takes no registrations at {resource}: set another"
                    " OXIDICOM_HTTP_REGISTER, or OXIDICOM_CELERY_BROKER instead of CHRIS_URL"
                )
            return _fault(answer.status_code, where)


def _fault(status: int, where: str) -> str | None:
    if status == 401:
        return f"{where} refuses this user or password: correct CHRIS_USERNAME and CHRIS_PASSWORD"
    if status == 403:
        return (
            f"{where} denies this user its API: correct CHRIS_USERNAME and CHRIS_PASSWORD, or have"
            " CUBE's administrator grant the user its permissions"
        )
    if 300 <= status < 400:
        return f"{where} redirects us ({status}), which is not followed: correct {_VARIABLE}"
    if status >= 500 or status in (408, 429):
        return f"{where} answers {status}: CUBE, or what stands before it, is in trouble"
    if status >= 400:
        return f"{where} answers {status}: what is there is not CUBE's API, correct {_VARIABLE}"
    return None
