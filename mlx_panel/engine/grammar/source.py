"""From a request to the grammar its answer is held to: llguidance's flavour of Lark.

The grammar covers what the model says from its first token on. Text is free up to a mark: reasoning up to its end, an
answer with tools up to the place where a call begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ...errors import InvalidGrammar
from ...messages import GenerateRequest, Structure, Tool, Tools
from ...parse.lark import MOST_CALLS
from ...parse.schema import enforceable, lowered
from .lark import Lark, expression, quoted
from .limits import USER, check_weight

# What stands after reasoning, and before an answer that is no call, by the style's name.
FRAMES = {
    "harmony": ("<|start|>assistant", "<|channel|>final<|message|>"),
    "kimi_k3": ("", "<|open|>response<|sep|>"),
}


class Style(Protocol):
    """What a grammar needs of `parse.reasoning.Style`."""

    @property
    def name(self) -> str: ...

    @property
    def open(self) -> str: ...

    @property
    def close(self) -> str: ...


class Dialect(Protocol):
    """What a grammar needs of `parse.dialect.Dialect`."""

    @property
    def trigger(self) -> str: ...

    @property
    def repeats(self) -> bool: ...

    @property
    def at_line(self) -> bool: ...

    def rules(
        self,
        tools: Sequence[Tool],
        *,
        literal: Callable[[str], str],
        json: Callable[[dict[str, Any] | bool], str],
        several: bool,
    ) -> str: ...


def source(
    request: GenerateRequest,
    *,
    dialect: Dialect,
    style: Style | None,
    opened: bool,
    special: Mapping[str, int],
) -> str | None:
    """The grammar of an answer, for `Grammars.compile`; None where any answer is right.

    With `style` the model reasons first: `opened` says that the prompt ends inside reasoning, else reasoning may come.
    `special` are the marks that are a token of their own. Raises what `schema.check` raises, and GrammarTooComplex.
    """
    lark, structure = Lark(special), request.structure
    tools = request.tools if request.tools is not None and request.tools.tools else None
    if structure is None and (tools is None or not _bound(lark, tools, dialect, style)):
        return None
    grammars = [{"name": "answer", "lark_grammar": ""}]
    if structure is not None and structure.kind == "grammar":
        check_weight(structure.text)
        grammars.append({"name": USER, "lark_grammar": structure.text})
    if tools is not None:
        offered = [_held(tool, forced=bool(tools.forced)) for tool in tools.forced or tools.tools]
        lark.add(
            dialect.rules(
                offered, literal=lark.literal, json=lark.json, several=tools.parallel and tools.name is None
            )
        )
    if structure is None and tools is not None and not tools.forced:
        start = _spoken(lark, tools, dialect, style, opened)
    else:
        start = _reasoned(lark, _answer(lark, structure, tools, dialect, style), style, opened)
    grammars[0]["lark_grammar"] = lark.text(start)
    return json.dumps({"grammars": grammars}, ensure_ascii=False)


def _bound(lark: Lark, tools: Tools, dialect: Dialect, style: Style | None) -> bool:
    """Whether calls can be held to anything: they have to begin with a mark that is nothing else."""
    if tools.forced:
        return True
    token = lark.token(dialect.trigger)
    return bool(dialect.trigger) and (token is None or style is None or token != lark.token(style.open))


# --- the answer --------------------------------------------------------------------------------------------


def _answer(
    lark: Lark, structure: Structure | None, tools: Tools | None, dialect: Dialect, style: Style | None
) -> str:
    """An answer that has to have a form: calls, a structure, or one of both."""
    if structure is None or (tools is not None and tools.forced):
        assert tools is not None
        return _sections(lark, tools, dialect)
    frame = "" if style is None else FRAMES.get(style.name, ("", ""))[1]
    parts = [
        f"({lark.literal(frame)})? {_structured(lark, structure)}" if frame else _structured(lark, structure)
    ]
    if tools is not None and not dialect.trigger and structure.kind.startswith("json"):
        parts += _objects(lark, tools, dialect)
    elif tools is not None:
        parts.append(_sections(lark, tools, dialect))
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def _structured(lark: Lark, structure: Structure) -> str:
    match structure.kind:
        case "json_object":
            return lark.json({"type": "object"})
        case "json_schema":
            return lark.json(lowered(True if structure.schema is None else structure.schema))
        case "regex":
            lark.add(f"ASKED: /{expression(structure.text)}/")
            return "ASKED"
        case "choice":
            return _choice(lark, structure.choices)
        case "grammar":
            return f"@{USER}"


def _choice(lark: Lark, choices: Sequence[str]) -> str:
    if not choices:
        raise InvalidGrammar("There is nothing to choose from.", field="choice")
    named = [quoted(choice) for choice in dict.fromkeys(choices) if choice]
    if not named:
        return '""'
    lark.add(f"ASKED: {' | '.join(named)}")
    return "ASKED?" if "" in choices else "ASKED"


def _sections(lark: Lark, tools: Tools, dialect: Dialect) -> str:
    """One section of calls with its mark, or as many as may be."""
    section = f"{lark.literal(dialect.trigger)} calls" if dialect.trigger else "calls"
    lark.add(f"section: {section}")
    return f"section (GAP? section){{0,{MOST_CALLS - 1}}}" if _several(tools, dialect) else "section"


def _several(tools: Tools, dialect: Dialect) -> bool:
    """Whether sections may follow each other. A function that has to be called by its name is called once."""
    return dialect.repeats and tools.parallel and tools.name is None


# --- around it ---------------------------------------------------------------------------------------------


def _reasoned(lark: Lark, answer: str, style: Style | None, opened: bool) -> str:
    """Reasoning, and then an answer that has to have its form."""
    if style is None:
        return answer
    after = FRAMES.get(style.name, ("", ""))[0]
    lark.add(f"answer: {answer}")
    again = f"({lark.literal(after)})? " if after else ""
    thought = f"{lark.until('thought', style.close)} GAP? {again}answer"
    return thought if opened else f"{lark.literal(style.open)} {thought} | answer"


def _spoken(lark: Lark, tools: Tools, dialect: Dialect, style: Style | None, opened: bool) -> str:
    """Reasoning that may be left open, and text in which calls have their form."""
    again = _several(tools, dialect)
    open = "" if style is None else style.open

    def speech(unlike: str) -> str:
        number = "first_" if unlike else ""
        head = lark.until(f"{number}head", dialect.trigger, unlike=unlike, at_line=dialect.at_line)
        text = lark.speech(unlike, but=dialect.trigger)
        return f"{text}? | {head} calls spoken_on"

    more = lark.until("head", dialect.trigger, at_line=dialect.at_line)
    tail = lark.speech(but=dialect.trigger)
    lark.add(f"spoken_on: ({more} calls){{0,{MOST_CALLS - 1}}} {tail}?" if again else "spoken_on: GAP?")
    lark.add(f"spoken: {speech('')}")
    if style is None:
        return "spoken"
    thought = lark.until("thought", style.close)
    lark.add(f"thinking: {thought} GAP? spoken | {lark.speech(but=style.close)}?")
    if opened:
        return "thinking"
    # Reasoning that begins in earnest must not be taken for text, in which calls would be held to their form.
    lark.add(f"at_once: {speech(open if lark.token(open) is None else '')}")
    return f"GAP? {lark.literal(open)} thinking | at_once"


# --- tools -------------------------------------------------------------------------------------------------


def _objects(lark: Lark, tools: Tools, dialect: Dialect) -> list[str]:
    """Calls that stand bare, each as JSON: a lexer would take text that begins like other JSON for either at once."""
    key = getattr(dialect, "key", "arguments")
    objects = []
    for tool in tools.tools:
        arguments = _held(tool, forced=False).parameters or {"type": "object"}
        definitions = {"$defs": arguments["$defs"]} if "$defs" in arguments else {}
        objects.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, key: arguments},
                "required": ["name", key],
                "additionalProperties": False,
                **definitions,
            }
        )
    return list(map(lark.json, objects))


def _held(tool: Tool, *, forced: bool) -> Tool:
    """A tool whose arguments are what is enforced: its schema, or any object."""
    schema = tool.parameters
    if schema is None or not (tool.strict or (forced and enforceable(schema))):
        return msgspec.structs.replace(tool, parameters=None)
    return msgspec.structs.replace(tool, parameters=lowered({"type": "object", **schema}))
