"""Tools, calls and text around them for the tests of the dialects, and random walks through their grammars."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlx_panel.parse.dialect import Dialect
from mlx_panel.parse.gemma import Gemma
from mlx_panel.parse.pieces import Called, Parser, Piece, Said, Thought
from mlx_panel.parse.sections import merged
from mlx_panel.parse.tagged import Tagged
from mlx_panel.request import Function, PastToolCall, Tool, Tools

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "ratio": {"type": "number"},
        "sure": {"type": "boolean"},
        "options": {"type": "object"},
        "tags": {"type": "array"},
        "note": {"type": ["null", "string"]},
    },
    "required": ["city"],
}
TOOLS = Tools((Tool("get_weather", parameters=WEATHER), Tool("time-of.day"), Tool("f", parameters=WEATHER)))
# What a parser might take for something else.
FRAGMENTS = [
    *(
        "<",
        "</",
        "<t",
        "<tool_call",
        "<function",
        "[TOOL_CALLS",
        "[",
        "]",
        "{",
        "}",
        "call:",
        "<|",
        "|>",
        "<think>",
    ),
    *(
        "```",
        "tool_code",
        '"',
        "'",
        "\\",
        "\n",
        " ",
        "\r\n",
        "é",
        "日本",
        "𝄞",
        "a",
        "b c",
        ",",
        ";",
        "</think>",
    ),
]


def fragments(without: Collection[str] = ()) -> st.SearchStrategy[str]:
    """Text of tag-like pieces, without some."""
    pieces = st.sampled_from(FRAGMENTS) | st.text(max_size=4)
    return (
        st.lists(pieces, max_size=8)
        .map("".join)
        .filter(lambda text: not any(mark in text for mark in without))
    )


def ends(dialect: Dialect) -> tuple[str, ...]:
    """What a string argument cannot hold, for a dialect that writes strings as they are."""
    if isinstance(dialect, Gemma):
        return (dialect.quote,)
    if isinstance(dialect, Tagged):
        return (
            (dialect.value[1] or "</", "]]>")
            if dialect.cdata or not dialect.value[1]
            else (dialect.value[1],)
        )
    return ()


def calls(dialect: Dialect) -> st.SearchStrategy[list[PastToolCall]]:
    text = fragments(ends(dialect))
    plain = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
    )

    def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.dictionaries(st.sampled_from(["a", "b_1"]), inner, max_size=2)

    value = st.recursive(plain, lambda inner: st.lists(inner, max_size=2) | objects(inner), max_leaves=4)
    given = st.fixed_dictionaries(
        {"city": text},
        optional={
            "days": st.integers(-(10**20), 10**20),
            "ratio": st.floats(allow_nan=False, allow_infinity=False),
            "sure": st.booleans(),
            "options": objects(value),
            "tags": st.lists(value, max_size=3),
            "note": st.none() | text.filter(lambda text: text.strip() not in ("null", "None")),
        },
    )
    one = st.tuples(st.sampled_from(["get_weather", "f"]), given) | st.just(("time-of.day", {}))
    return st.lists(one, min_size=1, max_size=3).map(
        lambda found: [call(name, arguments, number) for number, (name, arguments) in enumerate(found)]
    )


def call(name: str, arguments: dict[str, Any], number: int = 0) -> PastToolCall:
    return PastToolCall(f"call_{number}", Function(name, json.dumps(arguments, ensure_ascii=False)))


def fed(parser: Parser, pieces: Iterable[str]) -> list[Piece]:
    """All that a parser says of text in these pieces, neighbours joined."""
    out: list[Piece] = []
    for piece in pieces:
        said = parser.feed(piece)
        assert said == merged(said)
        assert all(part[-1] or isinstance(part, Called) for part in said)
        out += said
    return merged([*out, *parser.flush()])


def cut(text: str, places: Iterable[int]) -> list[str]:
    """The text in pieces with borders at these places, taken modulo its length."""
    borders = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[begin:end] for begin, end in pairwise(borders)]


def said(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Said | Thought))


def told(pieces: Iterable[Piece]) -> list[tuple[str, Any]]:
    """Name and arguments of the calls."""
    return [(piece.name, json.loads(piece.arguments)) for piece in pieces if isinstance(piece, Called)]


# --- grammars ----------------------------------------------------------------------------------------------


def byte_tokenizer(special: Sequence[str]) -> Tokenizer:
    """A token a byte, and one for each of these texts and for the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<eos>", *special)]
    )
    return tokenizer


def literal_of(tokenizer: Tokenizer, special: Sequence[str]) -> Callable[[str], str]:
    """Lark source for text in which these are tokens."""
    either = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)"

    def source(part: str) -> str:
        return f"<[{tokenizer.token_to_id(part)}]>" if part in special else json.dumps(part)

    return lambda text: " ".join(source(part) for part in re.split(f"({either})", text) if part)


class Walk:
    """Random answers that a grammar allows. `closings` are texts that are finished more often than not once begun."""

    def __init__(self, grammar: str, tokenizer: Tokenizer, closings: Iterable[str], seed: int):
        self._tokenizer = tokenizer
        self._grammar = LLMatcher.grammar_from_lark(grammar)
        self._known = LLTokenizer(tokenizer.to_str(), eos_token=tokenizer.token_to_id("<eos>"))
        self._closings = [tokenizer.encode(text, add_special_tokens=False).ids for text in closings if text]
        self._random = random.Random(seed)
        self._ends = [tokenizer.token_to_id(char) for char in "\"'<>})]Ċ"]

    def answer(self) -> str:
        matcher = LLMatcher(self._known, self._grammar)
        assert not matcher.is_error(), matcher.get_error()
        tokens: list[int] = []
        end = self._tokenizer.token_to_id("<eos>")
        while len(tokens) < 4000:
            bias = matcher.compute_logit_bias()
            allowed = [number for number, value in enumerate(bias) if value]
            assert allowed, "a dead end"
            if end in allowed and (len(allowed) == 1 or len(tokens) > 200 or self._random.random() < 0.3):
                return self._tokenizer.decode(tokens, skip_special_tokens=False)
            tokens.append(self._pick(tokens, [number for number in allowed if number != end]))
            assert matcher.consume_token(tokens[-1]), matcher.get_error()
        raise AssertionError("the answer does not end")

    def allows(self, text: str) -> bool:
        """Whether the grammar allows just this."""
        matcher = LLMatcher(self._known, self._grammar)
        assert not matcher.is_error(), matcher.get_error()
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        return (
            matcher.validate_tokens(tokens) == len(tokens)
            and matcher.consume_tokens(tokens)
            and matcher.is_accepting()
        )

    def _pick(self, tokens: list[int], allowed: list[int]) -> int:
        chance = self._random.random()
        wanted = self._wanted(tokens, allowed)
        if wanted and (chance < 0.8 or len(tokens) > 100):
            return self._random.choice(wanted)
        special = [number for number in allowed if number > 256]
        if special and chance < 0.5:
            return self._random.choice(special)
        ends = [number for number in self._ends if number in allowed]
        if ends and (chance > 0.5 or len(tokens) > 100):
            return self._random.choice(ends)
        return self._random.choice(allowed)

    def _wanted(self, tokens: list[int], allowed: list[int]) -> list[int]:
        """Tokens that go on with the closings of which most has come."""
        for length in range(max(map(len, self._closings), default=0), 0, -1):
            begun = [closing for closing in self._closings if len(closing) > length]
            wanted = {closing[length] for closing in begun if tokens[-length:] == closing[:length]}
            if wanted & set(allowed):
                return sorted(wanted & set(allowed))
        return []
