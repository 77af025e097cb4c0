"""Grammars: what they let through, for every kind of answer and tokenizer, and what they cost at most."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_lm.utils import load_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers import models as kinds

from mlx_panel.engine.detokenize import Vocabulary
from mlx_panel.engine.grammar import Grammars
from mlx_panel.engine.grammar.lark import held
from mlx_panel.engine.grammar.source import source
from mlx_panel.engine.guide import Guide, GuideLost, words
from mlx_panel.errors import GrammarTooComplex, InvalidGrammar, MlxPanelError, UnsupportedParameter
from mlx_panel.messages import GenerateRequest, Structure, StructureKind, Tool, Tools
from mlx_panel.parse import detect, reasoning
from mlx_panel.parse.answer import answer
from mlx_panel.parse.pieces import Called
from mlx_panel.parse.schema import lowered

from . import models
from .schemas import allowed, walk

MARKS = ("<|open|>", "<|close|>", "<|call|>")
PADDED = 600


def byte_level(folder: Path) -> Any:
    """The tiny models' tokenizer, with marks that are special tokens."""
    models.tokenizer(folder)
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    made.save(str(folder / "tokenizer.json"))
    return opened(folder)


def sentencepiece(folder: Path) -> Any:
    """Pieces with a marker for spaces, and bytes where there is no piece, as Llama 2 has them."""
    pieces = ["<unk>", "<s>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(sign) for sign in range(33, 127)]
    merges = [("a", "b"), ("▁", "a"), ("▁", "ab"), ("c", "d"), ('"', ":"), ("t", "r")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(kinds.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.add_special_tokens(["<unk>", "<s>", "<|im_end|>", *MARKS])
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return opened(folder)


def opened(folder: Path) -> Any:
    (folder / "config.json").write_text("{}")
    return load_tokenizer(folder)


class Bench:
    """A tokenizer, its grammars, and what is done with them."""

    def __init__(self, tokenizer: Any, eos: Sequence[int]):
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer)
        self.pieces = list(map(self.vocabulary.piece, range(self.vocabulary.size)))
        self.eos = set(eos)
        self.grammars = Grammars(tokenizer, PADDED, eos)
        self.special = self.vocabulary.marks(MARKS)

    def guide(self, text: str) -> Guide:
        return self.grammars.compile(text).result(30)

    def encode(self, text: str) -> list[int]:
        """Bytes as pieces: the longest first, marks as tokens."""
        for mark, number in self.special.items():
            if mark in text:
                before, after = text.split(mark, 1)
                return [*self.encode(before), number, *self.encode(after)]
        raw, ids = text.encode(), []
        while raw:
            token = max(
                (number for number, piece in enumerate(self.pieces) if piece and raw.startswith(piece)),
                key=lambda number: len(self.pieces[number]),
            )
            ids.append(token)
            raw = raw[len(self.pieces[token]) :]
        return ids

    def goes(self, text: str | None, said: str) -> str:
        """How an answer goes: "ends" where it may end, "open" where more has to come, else what was allowed of it."""
        assert text is not None
        guide, done = self.guide(text), ""
        for token in self.encode(said):
            try:
                guide.accept(token)
            except GuideLost:
                return f"after {done!r}"
            done += self.pieces[token].decode(errors="replace") or "*"
        return "ends" if self.eos <= set(allowed(guide.mask(), PADDED).tolist()) else "open"


@pytest.fixture(scope="module", params=[byte_level, sentencepiece], ids=["byte level", "sentencepiece"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    make: Callable[[Path], Any] = request.param
    made = Bench(make(tmp_path_factory.mktemp("tokenizer")), [2, 1])
    yield made
    made.grammars.close()


LANGUAGE = ["ab", "abab", "a b", " ab", "é", "日本", "cd", "cdé", "tr"]


def test_masks_are_what_the_language_says(bench: Bench) -> None:
    """Every state of a small language against its words: a token is allowed if a word goes on with its bytes."""
    guide = bench.guide(f'%llguidance {{"no_forcing": true}}\nstart: {" | ".join(map(json.dumps, LANGUAGE))}')
    spoken = {word.encode() for word in LANGUAGE}
    left: list[tuple[bytes, Guide]] = [(b"", guide)]
    states = 0
    while left:
        text, here = left.pop()
        states += 1
        mask = here.mask()
        assert mask is not None
        assert mask.size == words(PADDED)
        assert mask.dtype == np.uint32
        right = {
            number
            for number, piece in enumerate(bench.pieces)
            if piece and any(word.startswith(text + piece) for word in spoken)
        }
        assert set(allowed(mask, PADDED).tolist()) == right | (bench.eos if text in spoken else set())
        for token in right:
            copy = here.copy()
            copy.accept(token)
            left.append((text + bench.pieces[token], copy))
    assert states > 20


def test_forced_text_is_said_in_the_tokenizers_own_tokens_and_exactly(bench: Bench) -> None:
    """Where a tokenizer would put a space in front, or read a mark, the longest pieces are taken."""
    for text in ("The capital of France", "ab cd é", "<|open|> is text here", "  two", "日本語"):
        guide, said = bench.guide(f"start: {json.dumps(text)}"), b""
        while said != text.encode():
            token = int(allowed(guide.mask(), PADDED)[0])
            assert token not in bench.eos
            said += bench.pieces[token]
            assert text.encode().startswith(said)
            guide.accept(token)


def test_after_the_end_only_ends_are_allowed(bench: Bench) -> None:
    guide = bench.guide('start: "a"')
    guide.accept(bench.encode("a")[0])
    for end in (2, 1, 2):
        assert set(allowed(guide.mask(), PADDED).tolist()) == {1, 2}
        guide.accept(end)


def test_a_token_that_is_not_allowed_loses_the_guide(bench: Bench) -> None:
    guide = bench.guide('start: "a"')
    with pytest.raises(GuideLost):
        guide.accept(bench.encode("b")[0])
    with pytest.raises(GuideLost):
        guide.mask()


def test_grammars_are_compiled_once_and_copied_for_each(bench: Bench) -> None:
    text = "start: /[ab]{2}/"
    first, second = bench.guide(text), bench.guide(text)
    known = repr(bench.grammars)
    first.accept(bench.encode("a")[0])
    third = first.copy()
    third.accept(bench.encode("b")[0])
    assert set(allowed(third.mask(), PADDED).tolist()) == bench.eos
    assert bench.eos.isdisjoint(allowed(first.mask(), PADDED).tolist())
    assert bench.encode("a")[0] in allowed(second.mask(), PADDED)
    assert bench.grammars.compile(text).done()
    assert repr(bench.grammars) == known


def asked(kind: StructureKind, **values: Any) -> str:
    made = source(
        GenerateRequest("1", "m", structure=Structure(kind, **values)),
        dialect=detect.BY_NAME["hermes_json"],
        style=None,
        opened=False,
        special={},
    )
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("text", "kind", "numbers"),
    [
        (asked("grammar", text='start: "a" wrong\nother: "b"'), InvalidGrammar, {"line": 1, "column": 8}),
        (asked("grammar", text='start: "a"\nx: ('), InvalidGrammar, {"line": 2, "column": 5}),
        (asked("grammar", text=""), InvalidGrammar, None),
        (asked("grammar", text='start: "canary'), InvalidGrammar, None),
        (asked("regex", text="(canary"), InvalidGrammar, {}),
        (asked("regex", text="canary(?=a)"), InvalidGrammar, {}),
        (asked("regex", text="[^\\x00-\\x{10FFFF}]"), InvalidGrammar, {}),
        (asked("json_schema", schema={"allOf": [{"type": "string"}, {"type": "null"}]}), InvalidGrammar, {}),
        ("{", InvalidGrammar, {}),
        (asked("choice", choices=("\ud800",)), InvalidGrammar, {}),
        (asked("choice", choices=("a\x00", "b" * 1_100_000)), GrammarTooComplex, None),
    ],
)
def test_mistakes_are_told_by_their_place_and_never_quoted(
    bench: Bench, text: str, kind: type[MlxPanelError], numbers: dict[str, int] | None
) -> None:
    for _ in range(2):
        with pytest.raises(kind) as caught:
            bench.guide(text)
        assert numbers is None or caught.value.numbers == numbers
        assert "canary" not in f"{caught.value} {caught.value.numbers}"


def chain(rules: int, body: str) -> str:
    lines = [f"r{number}: {body.format(f'r{number + 1}')}" for number in range(rules)]
    return "\n".join(["start: r0", *lines, f'r{rules}: "a"'])


def nested(depth: int, inner: Any, word: str) -> Any:
    for _ in range(depth):
        inner = {word: inner} if word == "items" else {"type": "object", "properties": {"a": inner}}
    return inner


BOMBS: dict[str, Callable[[], str]] = {
    "repeats": lambda: asked("regex", text="(a{1,1000}){1,1000}"),
    "repeats of repeats": lambda: asked("regex", text="((((a|b){1,99}c?){1,99}){1,99}){1,99}"),
    "look back": lambda: asked("regex", text="(.*x.{500}y){20}"),
    "letters": lambda: asked("regex", text="(\\w{1,300}\\s){1,300}"),
    "parentheses": lambda: asked("regex", text="(" * 60_000 + ")" * 60_000),
    "expression of a megabyte": lambda: asked("regex", text="ab|" * 500_000),
    "choices": lambda: asked("choice", choices=tuple(f"choice {n * 7919 % 1_000_003}" for n in range(60_000))),
    "intersection": lambda: "start: A\nA: /(a|b)*a(a|b){20}/ & /(a|b)*b(a|b){19}a/ & ~/(a|b)*aa(a|b){17}/",
    "terminals of terminals": lambda: "start: R0\n" + "\n".join(f"R{n}: R{n + 1} R{n + 1}" for n in range(30)) + '\nR30: "a"',
    "rules of rules": lambda: chain(30, "{0} {0}"),
    "ambiguous rules": lambda: 'start: x x x x\nx: x x x | "a" | "aa" | ""',
    "a long chain": lambda: asked("grammar", text=chain(2_400, "{0}")),
    "a longer chain": lambda: asked("grammar", text=chain(60_000, "{0}")),
    "a chain of parentheses": lambda: asked("grammar", text=chain(170, "(" * 25 + "{0}" + ")" * 25)),
    "deep parentheses": lambda: asked("grammar", text="start: " + "(" * 4_000 + '"a"' + ")" * 4_000),
    "deep JSON in a grammar": lambda: asked("grammar", text="start: %json " + json.dumps(nested(900, {}, "items"))),
    "deep arrays": lambda: asked("json_schema", schema=nested(98, {"type": "null"}, "items")),
    "branches of branches": lambda: asked("json_schema", schema={
        "$ref": "#/$defs/d0",
        "$defs": {f"d{n}": {"anyOf": [{"properties": {k: {"$ref": f"#/$defs/d{n + 1}"}}} for k in "ab"]} for n in range(40)} | {"d40": {}},
    }),
    "products": lambda: asked("json_schema", schema={
        "allOf": [{"anyOf": [{"type": "object", "properties": {f"k{m}": {"const": n}}} for n in range(4)]} for m in range(12)],
    }),
    "references": lambda: asked("json_schema", schema={
        "$ref": "#/$defs/d0",
        "$defs": {f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(2_400)} | {"d2400": {}},
    }),
    "properties": lambda: asked("json_schema", schema={"type": "object", "properties": {f"k{n}": True for n in range(2_000)}}),
    "values": lambda: asked("json_schema", schema={"enum": [f"value {n * 7919 % 1_000_003}" for n in range(9_000)]}),
    "lengths": lambda: asked("json_schema", schema={"type": "string", "pattern": "(a|b)*c.{900}$", "minLength": 10**6, "maxLength": 10**9}),
    "counts": lambda: asked("json_schema", schema={"type": "array", "items": {"type": "integer"}, "minItems": 10**8, "maxItems": 10**9}),
    "multiples": lambda: asked("json_schema", schema={"type": "integer", "multipleOf": 4_294_967_291}),
    "patterns": lambda: asked("json_schema", schema={
        "properties": {f"k{n}": {"type": "string", "pattern": f"^(x|.{{{n}}}y)*$", "minLength": n} for n in range(200)},
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_or_followed_but_never_go_off(bench: Bench, name: str) -> None:
    """Each ends: as an error, or as a guide whose steps end too, if need be by giving up."""
    random = np.random.default_rng(0)
    try:
        guide = bench.guide(BOMBS[name]())
        for _ in range(60):
            guide.accept(int(random.choice(allowed(guide.mask(), PADDED))))
    except (GrammarTooComplex, GuideLost):
        return


def test_a_grammar_that_waits_can_be_cancelled_and_closing_does_not_wait(bench: Bench) -> None:
    grammars = Grammars(bench.tokenizer, PADDED, [2])
    first = grammars.compile(chain(2_000, "{0}"))
    later = [grammars.compile(f'start: "{number}"') for number in range(3)]
    assert later[0].cancel()
    grammars.close()
    assert all(future.cancelled() for future in later)
    assert first.result(30).mask() is not None


# --- sources ---------------------------------------------------------------------------------------------------

F = Tool(
    "f",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    },
)
G = Tool("g", parameters={"type": "object", "properties": {"b": {"not": {}}}})
CALL = '\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
FREE_CALL = '\n{"name": "f", "arguments": {"z": []}}\n</tool_call>'
SCHEMA = Structure("json_schema", schema=F.parameters)
THINK = reasoning.STYLES["think"]
TOKENS = reasoning.Style("tokens", "<|open|>", "<|close|>")


def made(bench: Bench, *, style: Any = None, opened: bool = False, trigger: str = "<tool_call>", **request: Any) -> str | None:  # fmt: skip
    dialect = detect.BY_NAME["hermes_json"]
    fields = {name: getattr(dialect, name) for name in dialect.__struct_fields__}
    special = {mark: number for mark, number in bench.special.items() if style is TOKENS or mark == trigger}
    return source(
        GenerateRequest("1", "m", **request),
        dialect=type(dialect)(**{**fields, "trigger": trigger}),
        style=style,
        opened=opened,
        special=special,
    )


STRUCTURES: list[tuple[Structure, dict[str, str]]] = [
    (SCHEMA, {'{"a": 1}': "ends", '{\n  "a": 1\n}': "ends", '{"a": ': "open", '{"a":  1}': "after", "x": "after"}),
    (Structure("json_object"), {'{"x": [1, {"y": null}]}': "ends", "[1]": "after", '{"x": 1} ': "after"}),
    (Structure("json_schema", schema=True), {"[1, null]": "ends", '"x"': "ends"}),
    (Structure("regex", text='^\\d+/[a-z"]{3}\\/$'), {'12/a"c/': "ends", "12/abc": "open", "x": "after"}),
    (Structure("regex", text="a\nb|c"), {"a\nb": "ends", "c": "ends", "a": "open"}),
    (Structure("choice", choices=("yes", 'no "q"\n', "yes!", "é")), {"yes": "ends", "yes!": "ends", 'no "q"\n': "ends", "é": "ends", "y": "open"}),
    (Structure("choice", choices=("", "a")), {"": "ends", "a": "ends"}),
    (Structure("grammar", text='start: calls+ answer\ncalls: "a"\nanswer: TEXT\nTEXT: /[b-d]+/\n%ignore " "'), {"aa bd": "ends", "aa": "open"}),
]  # fmt: skip


@pytest.mark.parametrize(("structure", "answers"), STRUCTURES, ids=lambda value: str(value)[:60])
def test_structures_hold_alone_and_after_reasoning(
    bench: Bench, structure: Structure, answers: dict[str, str]
) -> None:
    for said, ends in answers.items():
        assert bench.goes(made(bench, structure=structure), said).startswith(ends)
    for style, open, close in ((THINK, "<think>", "</think>"), (TOKENS, *MARKS[:2])):
        maybe = made(bench, structure=structure, style=style)
        inside = made(bench, structure=structure, style=style, opened=True)
        for said, ends in answers.items():
            assert bench.goes(maybe, said).startswith(ends)
            for thought in ("", "so < { </", "a\n\n"):
                for gap in ("", "\n\n"):
                    assert bench.goes(inside, thought + close + gap + said).startswith(ends)
                    assert bench.goes(maybe, open + thought + close + gap + said).startswith(ends)
        assert bench.goes(inside, "never ends { ") == "open"


@pytest.mark.parametrize("trigger", ["<tool_call>", "<|call|>"])
@pytest.mark.parametrize("style", [None, THINK, TOKENS], ids=str)
def test_tools_that_have_to_be_called(bench: Bench, trigger: str, style: Any) -> None:
    several = made(bench, style=style, trigger=trigger, tools=Tools((F, G), "required"))
    one = made(bench, style=style, trigger=trigger, tools=Tools((F, G), "required", "f", parallel=False))
    for before in ("", f"{style.open}hm {style.close}\n") if style else ("",):
        assert bench.goes(several, before + trigger + CALL) == "ends"
        assert bench.goes(several, f"{before}{trigger}{CALL}\n{trigger}{CALL}{trigger}{CALL}") == "ends"
        assert bench.goes(several, before + trigger + CALL.replace('"f"', '"g"')) == "ends"
        assert bench.goes(one, before + trigger + CALL) == "ends"
        for wrong in ("hello", trigger + FREE_CALL, trigger + CALL + "x"):
            assert bench.goes(several, before + wrong).startswith("after")
        for wrong in (trigger + CALL.replace('"f"', '"g"'), trigger + CALL + "\n" + trigger):
            assert bench.goes(one, before + wrong).startswith("after")


@pytest.mark.parametrize("trigger", ["<tool_call>", "<|call|>"])
@pytest.mark.parametrize("style", [None, THINK, TOKENS], ids=str)
def test_tools_that_may_be_called_leave_text_free(bench: Bench, trigger: str, style: Any) -> None:
    strict = Tool("f", parameters=F.parameters, strict=True)
    several = made(bench, style=style, trigger=trigger, tools=Tools((strict, G)))
    one = made(bench, style=style, trigger=trigger, tools=Tools((strict, G), parallel=False))
    loose = made(bench, style=style, trigger=trigger, tools=Tools((F, G)))
    for before in ("", f"{style.open}hm {style.close}\n") if style else ("",):
        for said in ("", "hello < <tool", f"hi {trigger}{CALL}", trigger + CALL):
            assert bench.goes(several, before + said) == bench.goes(one, before + said) == "ends"
        assert bench.goes(several, f"{before}{trigger}{CALL}\n{trigger}{CALL} done") == "ends"
        assert bench.goes(loose, before + trigger + FREE_CALL) == "ends"
        assert bench.goes(loose, before + trigger + CALL.replace("1", '"x"')) == "ends"
        for grammar, wrong in (
            (several, f"a {trigger}x"),
            (several, trigger + FREE_CALL),
            (one, f"{trigger}{CALL}{trigger}"),
            (loose, trigger + CALL.replace('{"a": 1}', "[1]")),
        ):
            assert bench.goes(grammar, before + wrong).startswith("after")
    if style is not None:
        # In its thoughts a model may say anything, and it may stop there.
        assert bench.goes(several, f"{style.open}what if <tool_call> x") == "ends"


def test_tools_beside_a_structure_give_calls_or_the_structure(bench: Bench) -> None:
    for style in (None, THINK, TOKENS):
        either = made(bench, style=style, tools=Tools((F,)), structure=SCHEMA)
        for before in ("", f"{style.open}hm{style.close}\n") if style else ("",):
            assert bench.goes(either, before + '{"a": 3}') == "ends"
            assert bench.goes(either, before + "<tool_call>" + CALL) == "ends"
            assert bench.goes(either, before + "hello").startswith("after")
    forced = made(bench, tools=Tools((F,), "required"), structure=SCHEMA)
    assert bench.goes(forced, '{"a": 3}').startswith("after")


def test_bare_calls_and_a_structure_that_begin_alike_are_told_apart(bench: Bench) -> None:
    """Dialects without a mark: what begins with a brace may become either."""
    for name in ("openai_json", "llama3_json"):
        dialect = detect.BY_NAME[name]
        key = "arguments" if name == "openai_json" else "parameters"
        request = GenerateRequest("1", "m", tools=Tools((F,)), structure=SCHEMA)
        text = source(request, dialect=dialect, style=None, opened=False, special={})
        assert bench.goes(text, '{"a": 3}') == "ends"
        assert bench.goes(text, f'{{"name": "f", "{key}": {{"a": 1}}}}') == "ends"
        assert bench.goes(text, '{"b"').startswith("after")


def test_nothing_is_held_where_any_answer_is_right(bench: Bench) -> None:
    assert made(bench) is None
    bare = GenerateRequest("1", "m", tools=Tools((F,)))
    for name in ("openai_json", "harmony"):
        dialect = detect.BY_NAME[name]
        special = dict.fromkeys(reasoning.HARMONY.markers, 1)
        assert source(bare, dialect=dialect, style=reasoning.HARMONY, opened=False, special=special) is None


def test_what_cannot_be_enforced_is_refused_with_the_request(bench: Bench) -> None:
    with pytest.raises(UnsupportedParameter):
        made(bench, structure=Structure("json_schema", schema={"not": {}}))
    with pytest.raises(UnsupportedParameter):
        made(bench, tools=Tools((Tool("g", parameters=G.parameters, strict=True),)))
    with pytest.raises(InvalidGrammar):
        made(bench, structure=Structure("choice"))


@pytest.mark.parametrize("name", detect.BY_NAME)
def test_calls_of_every_dialect_are_read_back(bench: Bench, name: str) -> None:
    """Random walks through a grammar of calls, with marks as special tokens where they are: the parser finds them."""
    dialect = detect.BY_NAME[name]
    tools = Tools((F, Tool("h")), "required")
    special = {mark: number for mark, number in bench.special.items() if mark in dialect.markers}
    text = source(
        GenerateRequest("1", "m", tools=tools), dialect=dialect, style=None, opened=False, special=special
    )
    assert text is not None
    pieces = list(bench.pieces)
    for mark, number in special.items():
        pieces[number] = mark.encode()
    found = 0
    for number in range(6):
        said = walk(bench.guide(text), pieces, bench.eos, np.random.default_rng(number), 1_500)
        if said is None:
            continue
        parser = answer(style=None, opened=False, dialect=dialect, tools=tools, eager=True)
        told = [*parser.feed(said.decode()), *parser.flush()]
        assert all(isinstance(piece, Called) for piece in told), said
        assert parser.broken == 0
        calls: dict[int, str] = {}
        names: dict[int, str] = {}
        for piece in told:
            assert isinstance(piece, Called)
            calls[piece.call] = calls.get(piece.call, "") + piece.arguments
            names[piece.call] = names.get(piece.call, "") + piece.name
        for call, arguments in calls.items():
            found += 1
            value = json.loads(arguments)
            assert isinstance(value, dict)
            if names[call] == "f":
                assert list(value) == ["a"]
                assert isinstance(value["a"], int)
    assert found


def test_what_says_nothing_of_white_space_may_not_hold_it_up(bench: Bench) -> None:
    """White space is bounded everywhere: an answer that prefers it ends nevertheless."""
    guide = bench.guide(json.dumps({"grammars": [{"json_schema": held(lowered(F.parameters))}]}))
    blank = [number for number, piece in enumerate(bench.pieces) if piece and not piece.strip()]
    for _ in range(400):
        tokens = allowed(guide.mask(), PADDED)
        if bench.eos & set(tokens.tolist()):
            return
        spaces = np.intersect1d(tokens, blank)
        ends = [token for token in tokens if set(bench.pieces[token]) <= set(b'{}":a1')]
        guide.accept(int(spaces[0] if spaces.size else ends[0]))
    pytest.fail("it goes on and on")


def test_harmony_has_its_frames_around_what_is_held(tmp_path: Path) -> None:
    """Channels: reasoning in one, a structured answer in another, calls in a third."""
    models.tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    marks = reasoning.HARMONY.markers
    names = [AddedToken(mark, special=True, normalized=False) for mark in marks if mark.count("<") == 1]
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    bench = Bench(opened(tmp_path), [2])
    bench.special = bench.vocabulary.marks(marks)
    thought = "<|channel|>analysis<|message|>hm<|end|>"

    def text(**request: Any) -> str | None:
        return source(
            GenerateRequest("1", "m", **request),
            dialect=detect.BY_NAME["harmony"],
            style=reasoning.HARMONY,
            opened=False,
            special=bench.special,
        )

    structured, forced = text(structure=SCHEMA), text(tools=Tools((F,), "required"))
    final = '<|channel|>final<|message|>{"a": 1}'
    call = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}'
    for before in ("", thought, f"{thought}<|start|>assistant"):
        assert bench.goes(structured, before + final) == "ends"
        assert bench.goes(structured, before + '{"a": 1}') == "ends"
        assert bench.goes(structured, before + final.replace("1", '"x"')).startswith("after")
        assert bench.goes(forced, before + call) == "ends"
        assert bench.goes(forced, before + final).startswith("after")
    bench.grammars.close()
