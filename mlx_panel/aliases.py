"""The rules for names that no model and no preset has: the first that matches decides. Pure functions of their text.

An expression is matched with Python's `re`, which tries one way after the other, and so many that a short one can keep
a processor busy for years. Only such are taken whose ways can be counted from their text, and are few.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator

from .errors import InvalidParameter
from .preset import Alias

MOST_RULES = 256
SAFE = " !#$&'()*+,/:;=?@[]^_`{|}~<>\\\""
# A name longer than a preset's may be matches no expression: the ways to try grow with it.
LONGEST_NAME = 128
# Of all expressions together; trying so many takes a tenth of a second.
MOST_WAYS = 4_000_000
_TOKEN = re.compile(
    r"""
    \\(?: [dDwWsSbB] | x[0-9A-Fa-f]{2} | [^A-Za-z0-9] )
    | \[\^?+(?: \\. | [^\]\\\[&|~-] | -(?!-) )++\]
    | \((?: \?: )?(?!\?)
    | (?: [*+?] | \{[0-9]{1,3}(?:,[0-9]{0,3})?\} )[?+]?
    | [^\\\[\](){}*+?]
    | \)
    """,
    re.VERBOSE | re.DOTALL,
)
_COUNTS = re.compile(r"\{(\d+)(,?)(\d*)\}")


class Rule:
    """An alias that can be asked. Raises InvalidParameter for an expression that is none, or cannot be counted."""

    def __init__(self, alias: Alias):
        self.alias = alias
        self.ways = 0
        self._expression: re.Pattern[str] | None = None
        if not alias.pattern.isprintable():
            raise InvalidParameter("The pattern of a rule takes printable characters only.", field="pattern")
        if alias.kind == "regex":
            self.ways = ways(alias.pattern)
            self._expression = _compiled(alias.pattern)

    def __repr__(self) -> str:
        return f"<Rule {self.alias.kind} {self.alias.pattern!r} -> {self.alias.target!r}>"

    def matches(self, name: str) -> bool:
        if self._expression is not None:
            return len(name) <= LONGEST_NAME and self._expression.fullmatch(name) is not None
        pattern = self.alias.pattern
        return name.startswith(pattern) if self.alias.kind == "prefix" else name == pattern


def header(alias: Alias) -> str:
    """A rule's pattern as a header can hold it: what is not ASCII is percent-encoded."""
    return urllib.parse.quote(alias.pattern, safe=SAFE)


def rules(aliases: Iterable[Alias]) -> tuple[Rule, ...]:
    """The rules in their order. Raises InvalidParameter naming the one at fault, or what they are too many of."""
    made = [_made(place, alias) for place, alias in enumerate(aliases)]
    if len(made) > MOST_RULES:
        raise InvalidParameter(f"'aliases' takes up to {MOST_RULES} rules.", field="aliases")
    if sum(rule.ways for rule in made) > MOST_WAYS:
        raise InvalidParameter(
            "'aliases': all expressions together have too many ways to match; use fewer '*' and '+', or prefixes.",
            field="aliases",
        )
    return tuple(made)


def first(made: Iterable[Rule], name: str) -> Iterator[Rule]:
    """The rules that are switched on and match a name, in their order."""
    return (rule for rule in made if rule.alias.enabled and rule.matches(name))


def ways(expression: str) -> int:
    """How many ways there are at most to match a name of `LONGEST_NAME` characters against an expression.

    Only single characters may repeat, a group may at most be left out; what looks around, refers back or sets flags is
    refused. Raises InvalidParameter.
    """
    groups, item, repeatable = [_Group()], 0, False
    for token in _tokens(expression):
        group = groups[-1]
        if token.startswith("("):
            groups.append(_Group())
            item = 0
        elif token == ")" and len(groups) > 1:
            item, repeatable = groups.pop().ways, False
            groups[-1].here *= item
        elif token == "|":
            group.before, group.here, item = group.ways, 1, 0
        elif token[0] in "*+?{":
            group.here = group.here // _repeated(item) * _choices(token, item, repeatable)
            item = 0
        else:
            item, repeatable = 1, True
    if len(groups) > 1:
        raise _refused("its parentheses are not balanced")
    if groups[0].ways > MOST_WAYS:
        raise _refused("it has too many ways to match a name; use fewer '*' and '+'")
    return groups[0].ways


class _Group:
    """The ways through a group: of the branches `before` this one, and of what is read of this one, `here`."""

    def __init__(self) -> None:
        self.before, self.here = 0, 1

    @property
    def ways(self) -> int:
        return self.before + self.here


def _tokens(expression: str) -> Iterator[str]:
    place = 0
    while place < len(expression):
        found = _TOKEN.match(expression, place)
        if found is None:
            raise _refused(f"it has something at character {place + 1} that rules do not take")
        yield found[0]
        place = found.end()


def _repeated(item: int) -> int:
    if not item:
        raise _refused("it has a quantifier that follows nothing to repeat")
    return item


def _choices(token: str, item: int, repeatable: bool) -> int:
    """The ways through an item with its quantifier."""
    if token[0] == "?":
        return item + 1
    if not repeatable:
        raise _refused("it repeats a group; only single characters may repeat")
    found = _COUNTS.match(token)
    if found is None:
        return LONGEST_NAME + 1
    least = int(found[1])
    most = int(found[3] or LONGEST_NAME) if found[2] else least
    return max(1, min(most, LONGEST_NAME) - least + 1)


def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise _refused("it does not compile") from error


def _refused(why: str) -> InvalidParameter:
    return InvalidParameter(f"A rule's expression cannot be used: {why}.", field="pattern")


def _made(place: int, alias: Alias) -> Rule:
    try:
        return Rule(alias)
    except InvalidParameter as error:
        raise InvalidParameter(f"'aliases[{place}]': {error}", field=f"aliases[{place}].pattern") from error
