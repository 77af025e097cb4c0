"""The query string of a question to the audit log: every name is taken once, or refused."""

from __future__ import annotations

from collections.abc import Sequence

from tornado.web import RequestHandler

from ..analytics import FILTER_NAMES, AuditFilter, read
from ..errors import InvalidParameter
from . import decode as bodies


class AuditQuery:
    """Names and values of an address; empty values count as not given. All methods raise InvalidParameter."""

    def __init__(self, handler: RequestHandler):
        found = {name: handler.get_query_arguments(name) for name in handler.request.query_arguments}
        self._left = {name: [value for value in values if value] for name, values in found.items()}

    def __repr__(self) -> str:
        return f"<AuditQuery {len(self._left)} names left>"

    def filter(self) -> AuditFilter:
        return read({name: self._left.pop(name) for name in FILTER_NAMES if name in self._left})

    def text(self, name: str, default: str = "") -> str:
        values = self._left.pop(name, [])
        if len(values) > 1:
            raise InvalidParameter(f"'{name}' is given more than once.", field=name)
        return values[0] if values else default

    def choice(self, name: str, known: Sequence[str]) -> str:
        """One of the words that are known, by default the first."""
        value = self.text(name, known[0])
        if value not in known:
            raise InvalidParameter(f"{name} is one of {', '.join(known)}.", field=name)
        return value

    def flag(self, name: str) -> bool | None:
        value = self.text(name)
        if value not in ("", "true", "false"):
            raise InvalidParameter(f"{name} is true or false.", field=name)
        return value == "true" if value else None

    def number(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`; None where it is not given."""
        text = self.text(name)
        if not text:
            return None
        try:
            value = int(text) if text.isascii() and len(text) < 20 else None
        except ValueError:
            value = None
        if value is None:
            raise InvalidParameter(f"'{name}' must be a whole number.", field=name)
        if not low <= value <= high:
            bounds = f"{low} or more" if high >= 2**53 else f"{low} to {high}"
            raise InvalidParameter(f"{name} is {bounds}.", field=name)
        return value

    def options(self, known: Sequence[str]) -> dict[str, str]:
        """Those of these names that are given."""
        return {name: value for name in known if (value := self.text(name))}

    def done(self) -> None:
        """Refuse what nobody took."""
        unknown = bodies.printable(self._left)
        if unknown:
            raise InvalidParameter(f"There is no filter '{unknown[0]}'.", field=unknown[0])
