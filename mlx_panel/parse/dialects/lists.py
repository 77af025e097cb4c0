"""Families that write a JSON list of calls between two marks of their own."""

from ..objects import Objects


def _list(name: str, trigger: str, close: str = "", title: str = "name", key: str = "arguments") -> Objects:
    return Objects(
        name=name,
        trigger=trigger,
        close=close,
        title=title,
        key=key,
        markers=(trigger, close) if close else (trigger,),
        listing=True,
    )


COMMAND_R = _list("command_r", "<|START_ACTION|>", "<|END_ACTION|>", "tool_name", "parameters")
GRANITE = _list("granite", "<|tool_call|>")
NEMOTRON = _list("nemotron", "<TOOLCALL>", "</TOOLCALL>")
TOOL_CALLS = _list("tool_calls", "<tool_calls>", "</tool_calls>")
