"""How much a grammar may take, so that no request can keep the engine from the others; and what went wrong with one."""

from __future__ import annotations

import re

from llguidance import LLParserLimits

from ...errors import GrammarTooComplex, InvalidGrammar, MlxPanelError

# The name of a grammar that came with the request, among those of a source: places in it are told.
USER = "asked"
# Bytes of a grammar's source.
SOURCE_BYTES = 1 << 20
# llguidance's compiler goes down one call for each rule that leads to another, and its stack has to hold them all.
STACK_BYTES = 512 << 20
# Parts of llguidance's messages that tell of a limit; whatever else it says is a mistake in the grammar.
_LIMITS = (
    "too big",
    "too large",
    "too complex",
    "too many",
    "too deep",
    "fuel",
    "limit",
    "level exceeded",
    "determine",
)
_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\):")


def parser_limits() -> LLParserLimits:
    """llguidance's own, but for the states a lexer may have (1 to 2 kB each, and each row has its own), and the ways on
    at one place: an object has four for each property that may be left out."""
    return LLParserLimits(max_items_in_row=10_000, max_lexer_states=50_000, verbose_errors=False)


def check_size(source: str) -> None:
    """Raise GrammarTooComplex for a source that is too long, InvalidGrammar for one that is no Unicode."""
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise InvalidGrammar from error
    if size > SOURCE_BYTES:
        raise GrammarTooComplex(bytes=size, limit=SOURCE_BYTES)


def error_of(message: str, source: str) -> MlxPanelError:
    """What a message of llguidance's means. Its words may quote the grammar, so only the place in it is told, and that
    only in a grammar that came with the request: of what is written here no mistake is expected."""
    head = message.split("\n", 1)[0]
    if any(word in head for word in _LIMITS) or "error: exceed" in message:
        return GrammarTooComplex()
    place = _PLACE.match(head) if f'"name": "{USER}"' in source else None
    if place is None:
        return InvalidGrammar()
    return InvalidGrammar(line=int(place[1]), column=int(place[2]))


# Rules and brackets of a grammar that came with a request. Each may be a step down for llguidance's compiler, some
# 25 kB of stack; without a bound a chain of a few thousand rules ends the process.
WEIGHT = 5_000


def check_weight(text: str) -> None:
    """Raise GrammarTooComplex for a Lark grammar with more rules and brackets than the compiler's stack holds."""
    weight = sum(map(text.count, ":([{"))
    if weight > WEIGHT:
        raise GrammarTooComplex(field="grammar", rules=weight, limit=WEIGHT)
