"""Tool calls as OpenAI's chat replies have them, whole and in pieces."""

from __future__ import annotations

import hashlib
from typing import Any

from ..messages import ToolCall
from .answer import Choice


def call_delta(event: ToolCall) -> dict[str, Any]:
    """A piece of a call. Its first one has the id and the name; clients join the rest to it by the index."""
    if not event.name:
        return {"index": event.call, "function": {"arguments": event.arguments}}
    return {"index": event.call, **_call(event, event.arguments)}


def calls(choice: Choice) -> list[dict[str, Any]]:
    """All calls of a choice."""
    return [_call(first, "".join(arguments)) for first, arguments in choice.calls]


def _call(first: ToolCall, arguments: str) -> dict[str, Any]:
    """The id is drawn from the call's place: each piece leaves by itself, and a whole reply says the same."""
    place = f"{first.id}/{first.index}/{first.call}"
    digest = hashlib.blake2s(place.encode(), digest_size=12).hexdigest()
    return {
        "id": f"call_{digest}",
        "type": "function",
        "function": {"name": first.name, "arguments": arguments},
    }
