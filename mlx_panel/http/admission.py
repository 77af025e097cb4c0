"""Who may call: hosts, origins and addresses, decided from a request's headers and peer."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from ..errors import HostRefused


def check_caller(address: str | None) -> None:
    """Refuse other machines: there are no keys yet, so whoever comes in could do anything. Raises HostRefused."""
    caller = caller_of(address)
    if caller is not None and not ipaddress.ip_address(caller).is_loopback:
        raise HostRefused(
            "This server knows no keys yet, so it answers only this machine. Come through a tunnel: ssh -L."
        )


def check_host(host: str, allowed: Iterable[str]) -> None:
    """Refuse a Host that is not this server's: a foreign page may point its own name here. Raises HostRefused."""
    if not any(matches(_name(host), pattern) for pattern in allowed):
        raise HostRefused(
            "This server does not answer to that host name; the setting allowed_hosts lists those it does."
        )


def _name(host: str) -> str:
    """The host without its port; empty where it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def check_origin(origin: str, own: str, allowed: Iterable[str]) -> None:
    """Refuse the pages of unknown origins: a browser is a way in from any web site. Raises HostRefused."""
    if origin != own and not any(
        matches(origin, pattern) or matches(origin, pattern.removesuffix(":*")) for pattern in allowed
    ):
        raise HostRefused(
            "Pages of this origin may not call the API; the setting cors_origins lists those that may."
        )


def matches(text: str, pattern: str) -> bool:
    """Whether a text fits a pattern in which only * is special."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text) is not None


def caller_of(address: str | None) -> str | None:
    """The caller's network address, None where there is none (a Unix socket)."""
    try:
        return str(ipaddress.ip_address((address or "").partition("%")[0]))
    except ValueError:
        return None
