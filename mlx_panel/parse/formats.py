"""The string formats that are enforced, as patterns: every string of a pattern has the format.

A pattern may leave out rare spellings of its format (a leap second, a quoted local part, an address of 250 characters);
what it lets through is right. Written after RFC 3339 (dates, times, durations), 5321 and 1123 (addresses, hosts), 4291
(IPv6), 4122 (UUID) and 3986 (URI).
"""

from __future__ import annotations

from types import MappingProxyType

_YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_FOURTH = "(0[48]|[2468][048]|[13579][26])"
_DAYS = (
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"({_YEAR}-{_DAYS}|([0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29)"
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = f"{_CLOCK}:[0-5][0-9](\\.[0-9]{{1,6}})?(Z|[+-]{_CLOCK})"
_NUMBER = "[0-9]{1,6}"
_TIME_PART = f"T({_NUMBER}H({_NUMBER}M({_NUMBER}S)?)?|{_NUMBER}M({_NUMBER}S)?|{_NUMBER}S)"
_DATE_PART = f"({_NUMBER}Y({_NUMBER}M({_NUMBER}D)?)?|{_NUMBER}M({_NUMBER}D)?|{_NUMBER}D)"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,38}[A-Za-z0-9])?"
_TOP = "[A-Za-z]([A-Za-z0-9-]{0,38}[A-Za-z0-9])?"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = f"{_BYTE}(\\.{_BYTE}){{3}}"
_GROUP = "[0-9A-Fa-f]{1,4}"
_HEX = "[0-9A-Fa-f]"
_PCHAR = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"


def _ipv6() -> str:
    """Eight groups, or fewer around one gap."""
    forms = [f"{_GROUP}(:{_GROUP}){{7}}"]
    for before in range(8):
        head = f"{_GROUP}(:{_GROUP}){{{before - 1}}}" if before else ""
        tail = f"({_GROUP}(:{_GROUP}){{0,{6 - before}}})?" if before < 7 else ""
        forms.append(f"{head}::{tail}")
    return f"({'|'.join(forms)})"


def _uri() -> str:
    host = f"({_LABEL}(\\.{_LABEL}){{0,5}}|{_IPV4}|\\[{_ipv6()}\\])"
    authority = f"//([A-Za-z0-9._~-]{{1,32}}@)?{host}(:[1-9][0-9]{{0,3}})?(/{_PCHAR}*)*"
    rest = f"([?]({_PCHAR}|[/?])*)?(#({_PCHAR}|[/?])*)?"
    return f"[A-Za-z][A-Za-z0-9+.-]{{0,15}}:({authority}|/?{_PCHAR}+(/{_PCHAR}*)*){rest}"


FORMATS = MappingProxyType(
    {
        name: f"^({pattern})$"
        for name, pattern in {
            "date-time": f"{_DATE}T{_TIME}",
            "date": _DATE,
            "time": _TIME,
            "duration": f"P({_DATE_PART}({_TIME_PART})?|{_TIME_PART}|{_NUMBER}W)",
            "email": f"{_ATOM}(\\.{_ATOM}){{0,2}}@({_LABEL}\\.){{1,4}}[A-Za-z]{{2,24}}",
            "hostname": f"({_LABEL}\\.){{0,5}}{_TOP}",
            "ipv4": _IPV4,
            "ipv6": _ipv6(),
            "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
            "uri": _uri(),
        }.items()
    }
)
