"""Lines that agents put into a conversation and change at every turn, so that no prefix cache can recognise it.

A prompt is reused up to the first token that differs. Claude Code writes a header with a new hash into the first line
of its system prompt at each request, and so everything after it would be computed anew (reported for several servers:
anthropics/claude-code#68900, waybarrios/vllm-mlx#277, sgl-project/sglang#21064). The rules here know such lines;
those that carry no meaning for a model are on by default.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import msgspec

from ..messages import Message

# A line longer than this is none of those known, whatever it begins with.
LONGEST = 200

_LEAD = r"[ \t#*-]{0,8}"
# Quantifiers are possessive and words end where letters end: no text makes matching slow.
_WORD = (
    r"(?:(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)[a-z]*+|[ap]\.?m\.?|at|is|it|of|"
    r"the|and|time|date|today(?:['’]s)?|utc|gmt|st|nd|rd|th|t|z|(?-i:[A-Z][a-z]+/[A-Z][A-Za-z_]+|[A-Z]{2,5}))(?![a-z])"
)
_MOMENT = rf"(?:{_WORD}|[\d \t,.:;/+()–—-])*+"
_CLOCK = r"(?=.*\d:\d\d)"


class Rule(msgspec.Struct, frozen=True):
    """Which lines to leave out of messages of `roles`: those that `pattern` matches whole, without their line break.

    With `leading` only lines with nothing but blank and stripped lines before them. `on` is the default;
    `description` says to a person what goes and why.
    """

    name: str
    description: str
    roles: frozenset[str]
    pattern: re.Pattern[str]
    leading: bool = False
    on: bool = False

    def __repr__(self) -> str:
        return f"<Rule {self.name}, {'on' if self.on else 'off'} by default>"


RULES: tuple[Rule, ...] = (
    Rule(
        "claude-code-header",
        "Claude Code's billing header at the very start of the system prompt (x-anthropic-billing-header: …). Its hash "
        "is new at each request; it is meant for Anthropic's accounting and tells the model nothing.",
        frozenset({"system"}),
        re.compile(r"x-anthropic-billing-header:(?:[ \t]*+[a-z_]++=[^;\s]*+;)*+[ \t]*+", re.IGNORECASE),
        leading=True,
        on=True,
    ),
    Rule(
        "clock",
        "A line of the system prompt that says nothing but the current date and time of day, as many agents add it "
        "anew at each turn. Without it the model does not know the time.",
        frozenset({"system"}),
        re.compile(
            rf"{_LEAD}(?:(?:the )?current (?:local )?(?:date(?: and| &)? ?time|time)\b|it is currently\b|(?=.*\d{{4}}))"
            rf"{_CLOCK}{_MOMENT}",
            re.IGNORECASE,
        ),
    ),
    Rule(
        "date",
        "A line of the system prompt that says nothing but today's date (OpenCode, Kilo Code, pi and others). It costs "
        "one long prefill a day. Without it the model does not know the date.",
        frozenset({"system"}),
        re.compile(
            rf"{_LEAD}(?:today(?:['’]s date)?|(?:the )?current date)\b(?=.*\d){_MOMENT}",
            re.IGNORECASE,
        ),
    ),
    Rule(
        "goose-turn-context",
        "The lines <current-time> and <compaction> that Goose rewrites inside an earlier user message at each request. "
        "Without them the model knows neither the time nor how much context is left.",
        frozenset({"user"}),
        re.compile(r"[ \t]*+<(current-time|compaction)>[^<>]{0,80}+</\1>[ \t]*+"),
    ),
)

DEFAULT: frozenset[str] = frozenset(rule.name for rule in RULES if rule.on)


def strip(
    messages: Sequence[Message], enabled: Collection[str]
) -> tuple[tuple[Message, ...], dict[str, int]]:
    """The messages without the lines that the rules named in `enabled` know, and how many lines each rule took.

    A message that keeps all its lines is the same object; so is the tuple when all do. A message never goes, even
    when nothing is left of it: positions stay. Raises ValueError for a name that is no rule's.
    """
    unknown = set(enabled) - {rule.name for rule in RULES}
    if unknown:
        raise ValueError(f"no rule is called {', '.join(sorted(unknown))}")
    rules = [rule for rule in RULES if rule.name in enabled]
    counts: dict[str, int] = {}
    stripped = tuple(_stripped(message, rules, counts) for message in messages)
    same = isinstance(messages, tuple) and not counts
    return (messages if same else stripped), counts  # type: ignore[return-value]


def _stripped(message: Message, rules: Sequence[Rule], counts: dict[str, int]) -> Message:
    rules = [rule for rule in rules if message.role in rule.roles]
    if not rules or not message.content:
        return message
    kept, leading = [], True
    lines = message.content.split("\n")
    for line in lines:
        rule = next((rule for rule in rules if _matches(rule, line, leading)), None)
        if rule is not None:
            counts[rule.name] = counts.get(rule.name, 0) + 1
            continue
        leading = leading and not line.strip()
        kept.append(line)
    if len(kept) == len(lines):
        return message
    return msgspec.structs.replace(message, content="\n".join(kept))


def _matches(rule: Rule, line: str, leading: bool) -> bool:
    line = line.removesuffix("\r")
    return len(line) <= LONGEST and (leading or not rule.leading) and rule.pattern.fullmatch(line) is not None
