"""Could registrations reach CUBE over HTTP?"""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit

from oxidicom.cli.probes import (
    LIMIT,
    Finding,
    NoCertificates,
    Server,
    Verdict,
    client_context,
    connection_trouble,
)
from oxidicom.settings import Settings

_VARIABLE: Final = "CHRIS_URL"


def probe_cube(settings: Settings) -> list[Finding]:
    """Nothing where it is not asked for: the broker's probe tells of both ways."""
    if settings.cube_url is None:
        return []
    url = urlsplit(settings.cube_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    server = Server(f"{url.hostname}:{port}", "HTTP", _VARIABLE)
    try:
        context = client_context(settings)
        status = _look(settings, settings.cube_url, context)
    except NoCertificates as error:
        return [Finding("CUBE", Verdict.FAULT, str(error))]
    except Exception as error:
        return [Finding("CUBE", Verdict.FAULT, connection_trouble(error, server))]
    fault = _fault(status, server.where)
    if fault is not None:
        return [Finding("CUBE", Verdict.FAULT, fault)]
    return [Finding("CUBE", Verdict.OK, f"{server.where} lets us in")]


def _look(settings: Settings, url: str, context: ssl.SSLContext) -> int:
    """The status of its answer."""
    import httpx  # late, like all that only one command needs

    auth = httpx.BasicAuth(settings.cube_username or "", settings.cube_password or "")
    with (
        httpx.Client(verify=context, timeout=LIMIT, follow_redirects=False) as client,
        client.stream("GET", url, auth=auth, headers={"Accept": "application/json"}) as answer,
    ):
        return answer.status_code


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
