"""What OpenAI's reply objects have in common: their head, their frames, and the chunk that is a template."""

from __future__ import annotations

from typing import Any

import msgspec

from ..messages import Usage
from .answer import Places
from .generation import Call
from .openai_messages import usage as counted
from .sse import frame

DONE = frame(b"[DONE]")


class Head:
    """The members that every object of one reply shares. `kind` is the whole reply's, `chunk` a streamed piece's."""

    def __init__(self, call: Call, places: Places, *, id: str, created: int, kind: str, chunk: str):
        self.id, self.created, self.kind, self.chunk = id, created, kind, chunk
        self.model = call.first.model
        self.places = places
        self._usage = call.usage
        self._more = {"deterministic": True} if call.first.deterministic else {}

    def __repr__(self) -> str:
        return f"<Head {self.kind} {self.id}, {self.places!r}>"

    def whole(self, choices: list[dict[str, Any]], usage: Usage) -> bytes:
        return msgspec.json.encode(self._object(self.kind, choices, {"usage": counted(usage)}))

    def piece(self, choice: dict[str, Any]) -> bytes:
        """One event of a stream about one choice."""
        more = {"usage": None} if self._usage else {}
        return frame(msgspec.json.encode(self._object(self.chunk, [choice], more)))

    def progress(self, progress: dict[str, Any]) -> bytes:
        """An event without a choice, as the one of the usage is, about what comes before the first token."""
        return frame(msgspec.json.encode(self._object(self.chunk, [], {"progress": progress})))

    def closing(self, usage: Usage) -> bytes:
        """A stream's last events: the token counts, for who asked for them, and the end."""
        if not self._usage:
            return DONE
        return frame(msgspec.json.encode(self._object(self.chunk, [], {"usage": counted(usage)}))) + DONE

    def _object(self, kind: str, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more, **self._more}


def template(piece: bytes, name: str) -> tuple[bytes, bytes]:
    """A piece with an empty text `name`, cut where the text belongs: only the text is encoded per token."""
    before, after = piece.split(b'"%b":""' % name.encode())
    return before + b'"%b":' % name.encode(), after
