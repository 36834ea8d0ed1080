"""Parses the URLs and addresses of other servers, and masks the secrets in them for output.

A parser raises InvalidValueError for an invalid text.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from oxidicom.settings.parsing import InvalidValueError, is_ae_title, items


class PacsAddress(NamedTuple):
    """The address of a PACS to query (C-FIND), written TITLE=host:port.

    It is queried for the series that are received from its AE title.
    """

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}={host}:{self.port}"


def split_url(text: str) -> SplitResult:
    """Split a URL. Raises InvalidValueError if it is malformed, has no host, or has port 0."""
    if not text.isprintable() or " " in text:
        raise InvalidValueError("it contains spaces or characters that cannot be printed")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidValueError(
            "host or port is malformed; if a password holds @ or /, write %40 or %2F"
        ) from None
    if not parts.hostname:
        raise InvalidValueError("it has no host")
    if port == 0:
        raise InvalidValueError("port 0 cannot be connected to")
    if "@" in parts.path + parts.query + parts.fragment:
        raise InvalidValueError(
            "it has an @ after its host; if a password holds @ or /, write %40 or %2F"
        )
    return parts


def parse_cube_url(text: str) -> str:
    """Return the base URL of CUBE's API as written, but always with a slash at its end."""
    if text.partition("://")[0].lower() not in ("http", "https") or "://" not in text:
        raise InvalidValueError
    parts = split_url(text)
    if parts.username is not None:
        raise InvalidValueError("the user and the password have variables of their own")
    if parts.query or parts.fragment:
        raise InvalidValueError("nothing may follow its path")
    return text if text.endswith("/") else text + "/"


def parse_pacs_addresses(text: str) -> tuple[PacsAddress, ...]:
    """Parse TITLE=host:port items separated by commas.

    Of several items with the same title the last one is used, as in the first generation.
    """
    addresses = {}
    for item in items(text):
        title, equals, address = (part.strip() for part in item.partition("="))
        if not equals:
            raise InvalidValueError('an item without "=": write TITLE=host:port')
        if not is_ae_title(title):
            raise InvalidValueError("an AE title has 1 to 16 ASCII characters")
        parts = split_url(f"dicom://{address}")
        if parts.netloc != address or parts.port is None:
            raise InvalidValueError("an address is host:port")
        assert parts.hostname is not None
        addresses[title] = PacsAddress(title, parts.hostname, parts.port)
    if not addresses:
        raise InvalidValueError
    return tuple(addresses.values())


def parse_nats(text: str) -> str:
    """Return a comma-separated list of the servers of one NATS cluster as written.

    Scheme and port of a server are optional.
    """
    servers = items(text)
    if not servers:
        raise InvalidValueError
    for server in servers:
        with_scheme = server if "://" in server else f"nats://{server}"
        if with_scheme.partition("://")[0] not in ("nats", "tls"):
            raise InvalidValueError
        split_url(with_scheme)
    return text


def parse_endpoint(text: str) -> bool:
    """Return whether `text` is not empty, which turns telemetry on. OpenTelemetry reads it."""
    return bool(text)


def mask_url(text: str) -> str:
    """Return an address with its password, token and query replaced by ***.

    A malformed address is replaced as a whole.
    """
    has_scheme = "://" in text
    try:
        parts = split_url(text if has_scheme else f"nats://{text}")
    except InvalidValueError:
        return "***"
    userinfo, at, host = parts.netloc.rpartition("@")
    if at:  # in NATS a user name without a password is a token
        user, colon, _ = userinfo.partition(":")
        host = f"{user}:***@{host}" if colon else f"***@{host}"
    query = "?***" if parts.query else ""
    scheme = f"{parts.scheme}://" if has_scheme else ""
    return f"{scheme}{host}{parts.path}{query}"


def mask_urls(text: str) -> str:
    """Mask each address of a comma-separated list.

    If one of several has a login, an item without one is replaced as a whole: it may be a part of
    a password that contains a comma.
    """
    addresses = text.split(",")
    if len(addresses) > 1 and "@" in text:
        return ",".join(mask_url(each) if "@" in each else "***" for each in addresses)
    return ",".join(map(mask_url, addresses))
