"""Pieces of Lark source in llguidance's flavour, as the dialects' grammars need them."""

from __future__ import annotations

import json as codec
import re
from collections.abc import Callable, Sequence
from typing import Any

# In one answer: a weak model would else repeat itself until its context is full.
MOST_CALLS = 32
# The string that Lark source begins with.
_PLAIN = re.compile(r'("(?:[^"\\]|\\.)*")\s*')
# The signs of a regular expression, a class being one.
_SIGN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]|.", re.DOTALL)
# What a grammar leaves free between the parts of a call.
SPACE = "CALL_SPACE: /[ \\n]{1,2}/"
KEY = "CALL_KEY: /[A-Za-z_][A-Za-z0-9_-]{0,63}/"


def either(rules: Sequence[str]) -> str:
    """A choice of rules."""
    return rules[0] if len(rules) == 1 else f"({' | '.join(rules)})"


def listed(item: str, separator: str, *, several: bool) -> str:
    """One `item`, or with `several` up to `MOST_CALLS` of them with `separator` between."""
    return f"{item} ({separator} {item}){{0,{MOST_CALLS - 1}}}" if several else item


def joined(rule: str, items: Sequence[tuple[str, bool]], separator: str) -> list[str]:
    """Rules for `items` in their order with `separator` between; those that are not required may be left out.

    `{rule}` is all of them; `{rule}_i` is what may come from item i on where none came before, `{rule}_i_t` where one did.
    """
    lines = []
    for number, (item, required) in enumerate(items):
        last = number + 1 == len(items)
        tail = "" if last else f" {rule}_{number + 1}_t"
        head = f" | {rule}_{number + 1}" if not last else ' | ""'
        skip = f" | {rule}_{number + 1}_t" if not last else ' | ""'
        lines.append(f"{rule}_{number}: {item}{tail}" + ("" if required else head))
        lines.append(f"{rule}_{number}_t: {separator} {item}{tail}" + ("" if required else skip))
    return [f"{rule}: {rule}_0" if items else f'{rule}: ""', *lines]


def pattern(text: str) -> str:
    """`text` as a regular expression for exactly that, between slashes."""
    return re.escape(text).replace("/", "\\/").replace("\\\n", "\\n")


class Raw:
    """Rules for text that ends with a mark, `pad` before it, and does not hold the mark.

    A mark that begins with a special token ends the text by itself; one of ordinary text has to be part of the terminal,
    because a lexer could not tell its beginning from the text.
    """

    def __init__(self, literal: Callable[[str], str], pad: str = ""):
        self._literal = literal
        self._pad = pad
        self._marks: list[str] = []
        self._lines: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Raw {len(self._lines)} rules>"

    @property
    def lines(self) -> list[str]:
        return list(self._lines.values())

    def key(self) -> str:
        """Source for a parameter's name where any may come."""
        self._lines["CALL_KEY"] = KEY
        return "CALL_KEY"

    def rule(self, name: str, schema: dict[str, Any] | bool, kinds: Sequence[str], mark: str) -> str:
        """Source for the text of one value and its mark."""
        inner = _constraints(schema) if isinstance(schema, dict) and tuple(kinds) == ("string",) else []
        source = self._literal(mark)
        plain = _PLAIN.match(source)
        if not inner and plain and plain.end() == len(source):
            return self._lazy(mark)
        # What stands before a special token has to be part of the terminal like a mark without one.
        end = pattern(self._pad) + (pattern(codec.loads(plain[1])) if plain else "")
        within, terminal = self._within(mark), name.upper()
        if not inner and not end:
            return f"{within} {source}"
        self._lines[terminal + "_V"] = f"{terminal}_V: {' & '.join([*inner, within])}"
        self._lines[terminal] = f"{terminal}: {terminal}_V{f' /{end}/' if end else ''}"
        return f"{terminal} {source[plain.end() :] if plain else source}".rstrip()

    def _number(self, mark: str) -> int:
        if mark not in self._marks:
            self._marks.append(mark)
        return self._marks.index(mark)

    def _within(self, mark: str) -> str:
        """Text without the mark."""
        name = f"CALL_WITHIN_{self._number(mark)}"
        self._lines[name] = f"{name}: /(?s:.*)/ & ~/(?s:.*){pattern(mark)}(?s:.*)/"
        return name

    def _lazy(self, mark: str) -> str:
        """Text up to the first mark, with the padding before it or without: a reader takes both."""
        name = f"call_text_{self._number(mark)}"
        pad = f"({pattern(self._pad)})?" if self._pad else ""
        self._lines[name] = f"{name}[lazy]: /(?s:.*){pad}{pattern(mark)}/"
        return name


def _constraints(schema: dict[str, Any]) -> list[str]:
    """Regular expressions, all of which a string of this schema matches; none if any string does."""
    found = []
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        found.append(f"/{'|'.join(pattern(str(value)) for value in values)}/")
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if least or most is not None:
        found.append(f"/(?s:.){{{least},{'' if most is None else most}}}/")
    if isinstance(schema.get("pattern"), str):
        found.append(_searched(schema["pattern"]))
    return found


def _searched(expression: str) -> str:
    """A schema's pattern, which is found anywhere in the text, as one of the whole text."""
    parts, depth = [""], 0
    for sign in _SIGN.findall(expression):
        depth += (sign == "(") - (sign == ")")
        if sign == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += sign.replace("/", "\\/") if sign != "\\/" else sign
    return f"/{'|'.join(map(_anchored, parts))}/"


def _anchored(part: str) -> str:
    """One alternative: without an anchor at an end, anything may stand there."""
    begin = "" if part.startswith("^") else "(?s:.*)"
    end = "" if part.endswith("$") and not part.endswith("\\$") else "(?s:.*)"
    inner = part[0 if begin else 1 : len(part) if end else -1]
    return f"{begin}({inner}){end}"
