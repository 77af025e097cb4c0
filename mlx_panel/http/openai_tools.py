"""The functions a model may call, and which of them it has to: OpenAI's `tools` and `tool_choice` into `Tools`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ..errors import InvalidParameter, UnknownField, UnsupportedParameter
from ..request import Tool, ToolChoice, Tools
from .decode import printable
from .openai_format import checked, weighed

MAX_TOOLS = 256
Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-zA-Z0-9_.\-]{1,64}\Z")]


class FunctionSpec(msgspec.Struct, frozen=True):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(msgspec.Struct, frozen=True):
    type: str
    function: FunctionSpec | None = None


class Named(msgspec.Struct, frozen=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True):
    type: str
    function: Named | None = None


class Allowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The forms of `tool_choice` that are objects."""

    type: str
    function: Named | None = None
    allowed_tools: Allowed | None = None


ChoiceSpec = Literal["none", "auto", "required"] | Choice


def tools(specs: list[ToolSpec] | None, choice: ChoiceSpec | None, parallel: bool | None) -> Tools | None:
    """What the model may call; None where it may call nothing. Raises InvalidParameter and UnsupportedParameter."""
    found = _tools(specs or [])
    if not found:
        if choice not in (None, "none", "auto"):
            raise InvalidParameter("'tool_choice' needs 'tools'.", field="tool_choice")
        return None
    if isinstance(choice, Choice):
        found, mode, name = _chosen(found, choice)
    else:
        mode, name = "required" if choice == "required" else "auto", None
    if choice == "none":
        return None
    return Tools(found, mode, name, parallel is not False)


def _tools(specs: list[ToolSpec]) -> tuple[Tool, ...]:
    if len(specs) > MAX_TOOLS:
        raise InvalidParameter(f"'tools' takes up to {MAX_TOOLS} functions.", field="tools")
    found = tuple(_tool(spec, f"tools[{place}]") for place, spec in enumerate(specs))
    names = [tool.name for tool in found]
    twice = next((place for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        field = f"tools[{twice}].function.name"
        raise InvalidParameter(f"'{field}' is the name of a function before it.", field=field)
    return found


def _tool(spec: ToolSpec, field: str) -> Tool:
    if spec.type != "function":
        raise UnsupportedParameter(
            f"'{field}': only tools of the type 'function' are supported.", field=f"{field}.type"
        )
    function = spec.function
    if function is None:
        raise InvalidParameter(f"The field '{field}.function' is required.", field=f"{field}.function")
    if function.parameters is not None:
        _parameters(function, f"{field}.function.parameters")
    return Tool(function.name, function.description or "", function.parameters, bool(function.strict))


def _parameters(function: FunctionSpec, field: str) -> None:
    """A strict function's schema is enforced, so it has to be enforceable."""
    assert function.parameters is not None
    if function.parameters.get("type", "object") != "object":
        raise InvalidParameter(f"'{field}' must be the schema of an object.", field=field)
    if function.strict:
        checked(function.parameters, field)
    else:
        weighed(function.parameters, field)


def _chosen(found: tuple[Tool, ...], choice: Choice) -> tuple[tuple[Tool, ...], ToolChoice, str | None]:
    """The functions that are left, whether one has to be called, and which."""
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        names = [_name(tool.type, tool.function, found) for tool in choice.allowed_tools.tools]
        left = tuple(tool for tool in found if tool.name in names)
        if not left:
            raise InvalidParameter("'tool_choice' allows no function.", field="tool_choice")
        return left, choice.allowed_tools.mode, None
    return found, "required", _name(choice.type, choice.function, found)


def _name(type: str, function: Named | None, found: tuple[Tool, ...]) -> str:
    if type == "custom":
        raise UnsupportedParameter("'tool_choice': only functions can be chosen.", field="tool_choice")
    if type != "function" or function is None or function.name not in [tool.name for tool in found]:
        raise InvalidParameter("'tool_choice' must name one of 'tools'.", field="tool_choice")
    return function.name


def tool_fields(raw: list[dict[str, Any]], refuse: bool) -> list[str]:
    """Names of fields inside tools that have no effect; `raw` has been checked. Raises UnknownField if that is asked."""
    found: set[str] = set()
    for place, tool in enumerate(raw):
        for inside, names in (
            ("", beyond(tool, ToolSpec)),
            ("function.", beyond(tool["function"], FunctionSpec)),
        ):
            if names and refuse:
                field = f"tools[{place}].{inside}{printable(names)[0]}"
                raise UnknownField(f"The field '{field}' is not part of this API.", field=field)
            found |= {f"tools.{inside}{name}" for name in names}
    return printable(found)


def beyond(raw: dict[str, Any], known: type[msgspec.Struct]) -> list[str]:
    """The fields that are set and that a struct does not have."""
    return [name for name, value in raw.items() if name not in known.__struct_fields__ and value is not None]
