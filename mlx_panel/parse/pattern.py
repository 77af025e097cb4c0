"""Which regular expressions mean the same to a JSON Schema validator and to what enforces them.

JSON Schema takes ECMA 262's expressions, validators take their language's, llguidance takes Rust's. What is accepted here
is what all of them read alike; llguidance adds that nothing looks around.
"""

from __future__ import annotations

import re

LONGEST = 4_000
# Behind every character.
CLASS = chr(0x10FFFF) * 2
_TOKEN = re.compile(
    r"""
    \\(?: [dDwWsStnrfv] | x[0-9A-Fa-f]{2} | u[0-9A-Fa-f]{4} | [pP]\{[A-Za-z_=]{1,40}\} | [!-/:;=?@\[-`{-~\x20] )
    | \[\^?+(?: \\. | [^\]\\\[] )(?: \\. | [^\]\\\[] )*\]
    | \((?: \?: | \?P?<[A-Za-z_][A-Za-z0-9_]*> )?
    | (?: [*+?] | \{[0-9]{1,6}(?:,[0-9]{0,6})?\} )\??
    | [^\\\[{]
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(
    r"\\(?:[dDwWsStnrfv]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[pP]\{[A-Za-z_=]{1,40}\}|[^A-Za-z0-9<>\s]| )"
)
_SETS = re.compile(r"&&|--|~~")
_COUNT = re.compile(r"\{(\d+),(\d+)\}")


def fault(pattern: str) -> str:
    """Why an expression cannot be enforced as it is meant; "" if it can."""
    if len(pattern) > LONGEST:
        return f"it is longer than {LONGEST} characters"
    tokens, place = [], 0
    while place < len(pattern):
        found = _TOKEN.match(pattern, place)
        if found is None:
            return "it has an escape, a bracket or a brace that is not read alike everywhere"
        if found[0] == "(" and pattern[found.end() : found.end() + 1] == "?":
            return "it looks around or sets flags, which is not supported"
        tokens.append(found[0])
        place = found.end()
    return _order(tokens) or _groups(tokens) or next(filter(None, map(_part, tokens)), "")


def _order(tokens: list[str]) -> str:
    """Quantifiers that follow nothing or each other, and anchors that are not at an end."""
    around = zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False)
    for before, token, after in around:
        opens = before in ("", "|") or before.startswith("(")
        if _quantifies(token) and (opens or before in "^$" or _quantifies(before)):
            return "it has a quantifier that follows nothing to repeat"
        if (token == "^" and not opens) or (token == "$" and after not in ("", ")", "|")):
            return "it has an anchor in its middle, which is not supported"
    return ""


def _groups(tokens: list[str]) -> str:
    depth = 0
    for token in tokens:
        depth += token.startswith("(") - (token == ")")
        if depth < 0:
            break
        if depth > 50:
            return "its groups are nested too deeply"
    return "its parentheses are not balanced" if depth else ""


def _part(token: str) -> str:
    if token == "(":
        return ""
    count = _COUNT.match(token)
    if count is not None and int(count[1]) > int(count[2]):
        return "it has a quantifier whose bounds contradict each other"
    return _brackets(token) if token.startswith("[") and len(token) > 1 else ""


def _brackets(token: str) -> str:
    """Of a character class: escapes, ranges, and what Rust takes for an operation on sets."""
    inner = token[2 if token.startswith("[^") else 1 : -1]
    if _SETS.search(inner):
        return "it has a character class that is not read alike everywhere"
    signs = re.findall(r"\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[pP]\{[^}]*\}|\\.|.", inner, re.DOTALL)
    if any(sign.startswith("\\") and not _ESCAPED.fullmatch(sign) for sign in signs):
        return "it has an escape that is not read alike everywhere"
    for low, dash, high in zip(signs, signs[1:], signs[2:], strict=False):
        if dash == "-" and not _sign(low) <= _sign(high) < CLASS:
            return "it has a character range without an order"
    return ""


def _sign(token: str) -> str:
    """The character that a part of a class stands for, CLASS for a class of its own."""
    if not token.startswith("\\"):
        return token
    if token[1] in "xu":
        return chr(int(token[2:], 16))
    named = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
    return named.get(token[1], CLASS) if token[1].isalnum() else token[1]


def _quantifies(token: str) -> bool:
    return token[:1] in ("*", "+", "?") or (token[:1] == "{" and len(token) > 1)
