"""URLs and addresses of those whom we talk to: read, and shown without their secrets."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from oxidicom.settings.parsing import InvalidValue, is_ae_title, items


class PacsAddress(NamedTuple):
    """Where a calling AE title can be asked (C-FIND)."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}={host}:{self.port}"


def _split_url(text: str) -> SplitResult:
    """Its host is not empty and its port a number; raises InvalidValue."""
    if not text.isprintable() or " " in text:
        raise InvalidValue("it holds spaces or characters that cannot be printed")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidValue(
            "its host or port is malformed (in a password, write %40 for @, %2F for /)"
        ) from None
    if not parts.hostname:
        raise InvalidValue("it names no host")
    if port == 0:
        raise InvalidValue("there is no port 0 to connect to")
    if "@" in parts.path + parts.query + parts.fragment:
        raise InvalidValue(
            "there is an @ behind its host (in a password, write %40 for @, %2F for /)"
        )
    return parts


def parse_broker(text: str) -> str:
    """The URL of an AMQP or Redis broker, as written."""
    scheme = text.partition(":")[0].lower()
    if scheme not in ("amqp", "amqps", "redis", "rediss") or "://" not in text:
        raise InvalidValue
    parts = _split_url(text)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    required = options.pop("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if "no_verify_ssl" in options or required != "required":
        raise InvalidValue(
            "verification of TLS cannot be turned off: set OXIDICOM_BROKER_CA to the authority's"
            " certificates instead"
        )
    if scheme in ("redis", "rediss") and not re.fullmatch(r"/?[0-9]{0,5}", parts.path):
        raise InvalidValue("behind the host stands the number of a database, or nothing")
    return text


def parse_cube_url(text: str) -> str:
    """The URL that the API's resources are relative to, with a slash at its end."""
    if text.partition("://")[0].lower() not in ("http", "https") or "://" not in text:
        raise InvalidValue
    parts = _split_url(text)
    if parts.username is not None:
        raise InvalidValue("user and password have variables of their own")
    if parts.query or parts.fragment:
        raise InvalidValue("nothing may stand behind its path")
    return text if text.endswith("/") else text + "/"


def parse_pacs_addresses(text: str) -> tuple[PacsAddress, ...]:
    """As the first generation reads them; of one title given twice the last counts."""
    addresses = {}
    for item in items(text):
        title, equals, address = (part.strip() for part in item.partition("="))
        if not equals:
            raise InvalidValue("a title and an address are joined by =")
        if not is_ae_title(title):
            raise InvalidValue("an AE title has 1 to 16 characters")
        parts = _split_url(f"dicom://{address}")
        if parts.netloc != address or parts.port is None:
            raise InvalidValue("an address is host:port")
        assert parts.hostname is not None
        addresses[title] = PacsAddress(title, parts.hostname, parts.port)
    if not addresses:
        raise InvalidValue
    return tuple(addresses.values())


def parse_nats(text: str) -> str:
    """The servers of one NATS cluster, as written: with or without scheme and port."""
    servers = items(text)
    if not servers:
        raise InvalidValue
    for server in servers:
        with_scheme = server if "://" in server else f"nats://{server}"
        if with_scheme.partition("://")[0] not in ("nats", "tls"):
            raise InvalidValue
        _split_url(with_scheme)
    return text


def parse_endpoint(text: str) -> bool:
    """That telemetry has somewhere to go; the address itself is OpenTelemetry's to read."""
    return bool(text)


def mask_url(text: str) -> str:
    """The address without password, token and query; nothing at all of one that is malformed."""
    has_scheme = "://" in text
    try:
        parts = _split_url(text if has_scheme else f"nats://{text}")
    except InvalidValue:
        return "***"
    userinfo, at, host = parts.netloc.rpartition("@")
    if at:  # a name without a password is NATS' form of a token
        user, colon, _ = userinfo.partition(":")
        host = f"{user}:***@{host}" if colon else f"***@{host}"
    query = "?***" if parts.query else ""
    scheme = f"{parts.scheme}://" if has_scheme else ""
    return f"{scheme}{host}{parts.path}{query}"


def mask_urls(text: str) -> str:
    """Each of several; an address beside others with logins may be half of a password."""
    addresses = text.split(",")
    if len(addresses) > 1 and "@" in text:
        return ",".join(mask_url(each) if "@" in each else "***" for each in addresses)
    return ",".join(map(mask_url, addresses))
