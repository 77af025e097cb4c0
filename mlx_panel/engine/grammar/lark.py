"""Lark source under way, in llguidance's flavour: text, marks, free speech and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# White space between two parts. Bounded: a weak model draws white space for ever where it may.
GAP = "GAP: /[ \\t\\r\\n]{1,8}/"
# Inside JSON one space, or a line break and its indentation. Of 60 answers of SmolLM2-135M at temperature 1 all ended
# within 200 tokens so (1,644 in all); with white space without bound 55 did (2,730), more than half of it white.
WHITE = "[ ]|\\n[ \\t]{0,32}"
# Without \u a key has one spelling only, so that no property comes twice or passes for another; what that takes away
# are control characters alone.
ESCAPES = 'nrbtf\\"'


class Lark:
    """Rules, and how what is not a rule is written in them. `special` are the marks that are a token of their own."""

    def __init__(self, special: Mapping[str, int]):
        self._special = special
        self._lines: list[str] = [GAP]

    def __repr__(self) -> str:
        return f"<Lark {len(self._lines)} lines>"

    def text(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join(["%llguidance {}", f"start: {start}", *self._lines])

    def add(self, line: str) -> None:
        if line not in self._lines:
            self._lines.append(line)

    def literal(self, text: str) -> str:
        """Exactly this text; a mark in it that is a token is that token."""
        return " ".join(self._parts(text)) or '""'

    def json(self, schema: dict[str, Any] | bool) -> str:
        """A JSON value of this schema, which is one that `lowered` gave."""
        return f"%json {json.dumps(held(schema), ensure_ascii=False)}"

    def token(self, mark: str) -> int | None:
        """The token with which a mark begins, None if it begins with text."""
        found = [name for name in self._special if mark.startswith(name)]
        return self._special[max(found, key=len)] if found else None

    def until(self, rule: str, mark: str, *, unlike: str = "", at_line: bool = False) -> str:
        """Makes `rule`: any text up to the first `mark`, with the mark. Text that begins with `unlike` is none."""
        parts = self._parts(mark)
        if self.token(mark) is not None:
            self.add(f"{rule}: {self.speech(unlike, but=mark)}? {' '.join(parts)}")
            return rule
        before = "((?s:.*)\\n)?[ \\t\\r]*" if at_line else "(?s:.*)"
        terminal = rule.upper()
        text = next(
            name for name in re.split("|".join(map(re.escape, self._special)) or "(?!)", mark) if name
        )
        self.add(f"{terminal}: /{before}{escaped(text)}/{_unlike(unlike)}")
        self.add(f"{rule}_text[lazy]: {terminal}")
        self.add(f"{rule}: {rule}_text {' '.join(parts[1:])}")
        return rule

    def speech(self, unlike: str = "", but: str = "") -> str:
        """Some text, marks among it that are tokens, save the one with which `but` begins."""
        terminal = "OTHER_TEXT" if unlike else "TEXT"
        self.add(f"{terminal}: /(?s:.+)/{_unlike(unlike)}")
        others = sorted(set(self._special.values()) - {self.token(but)} if but else self._special.values())
        if not others:
            return terminal
        ids = ",".join(map(str, others))
        self.add("TEXT: /(?s:.+)/")
        return f"({terminal}? (<[{ids}]> TEXT?)*)"

    def _parts(self, text: str) -> list[str]:
        if not self._special:
            return [quoted(text)] if text else []
        marks = sorted(self._special, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, marks))})", text)
        return [
            f"<[{self._special[piece]}]>" if piece in self._special else quoted(piece)
            for piece in pieces
            if piece
        ]


def held(schema: dict[str, Any] | bool) -> dict[str, Any]:
    """A schema with what is said about white space and escapes."""
    options = {"whitespace_pattern": WHITE, "json_allowed_escapes": ESCAPES}
    if isinstance(schema, bool):
        # No value at all has no type.
        schema = {} if schema else {"enum": []}
    return {"x-guidance": options, **schema}


def quoted(text: str) -> str:
    """`text` as a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def escaped(text: str) -> str:
    """`text` as a part of a regular expression between slashes."""
    return "".join(f"\\x{{{ord(sign):x}}}" if not sign.isalnum() else sign for sign in text)


def expression(text: str) -> str:
    """A regular expression between slashes: what would end it is escaped, once."""
    signs = re.findall(r"\\.|.", text, re.DOTALL)
    return "".join({"/": "\\/", "\n": "\\n", "\\\n": "\\n"}.get(sign, sign) for sign in signs)


def _unlike(mark: str) -> str:
    return f" & ~/[ \\t\\r\\n]*{escaped(mark)}(?s:.*)/" if mark else ""
