"""Asking a worker: a request in, all that came of it out. What it says stays here and with whoever asked."""

from __future__ import annotations

import asyncio
import time
import uuid
from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from ..errors import BY_CODE, GenerationFailed, Timeout
from ..messages import (
    Cancelled,
    Done,
    Embedded,
    EmbedRequest,
    Failed,
    GenerateRequest,
    Reasoning,
    Text,
    ToolCall,
    Usage,
)
from ..pool.process import Worker


class Limits(NamedTuple):
    """What a probe may cost: seconds an answer, seconds and tokens of the longest prompt, tokens an answer."""

    seconds: float = 120.0
    prefill_seconds: float = 60.0
    context: int = 32768
    tokens: int = 32
    answer: int = 256


@dataclass
class Answer:
    """What came of a request. `began` and `ended` are monotonic seconds of its first piece and its end."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    finish: str = ""
    vectors: list[array[float]] = field(default_factory=list)
    asked: float = field(default_factory=time.monotonic)
    began: float = 0.0
    ended: float = 0.0

    @property
    def speed(self) -> float:
        """Prompt tokens a second, until the first piece."""
        return self.usage.prompt_tokens / max(self.began - self.asked, 1e-3)

    @property
    def rate(self) -> float:
        """Tokens a second after the first one."""
        spent = self.ended - self.began
        return (
            (self.usage.completion_tokens - 1) / spent
            if spent > 0 and self.usage.completion_tokens > 1
            else 0.0
        )


async def ask(worker: Worker, request: GenerateRequest | EmbedRequest, seconds: float) -> Answer:
    """What a worker says. Raises what it failed with, Timeout after so many seconds, and WorkerDied."""
    request = msgspec.structs.replace(request, id=uuid.uuid4().hex)
    answer, stream = Answer(), worker.submit(request)
    try:
        async with asyncio.timeout(seconds):
            while not stream.over:
                for event in await stream.take():
                    _take(answer, event)
    except TimeoutError as late:
        raise Timeout(f"An answer took longer than {seconds:g} s.", timeout_seconds=seconds) from late
    finally:
        worker.cancel(request.id)
    answer.ended = time.monotonic()
    return answer


def _take(answer: Answer, event: Any) -> None:
    if isinstance(event, Text | Reasoning | ToolCall | Embedded | Done):
        answer.began = answer.began or time.monotonic()
    if isinstance(event, Text):
        answer.text += event.text
    elif isinstance(event, Reasoning):
        answer.reasoning += event.text
    elif isinstance(event, ToolCall):
        if event.call >= len(answer.calls):
            answer.calls.append(["", ""])
        answer.calls[event.call][0] += event.name
        answer.calls[event.call][1] += event.arguments
    elif isinstance(event, Done):
        answer.usage, answer.finish = event.usage, event.finish_reason
    elif isinstance(event, Embedded):
        answer.usage = event.usage
        flat = array("f", event.vectors)
        answer.vectors = [flat[at : at + event.dimensions] for at in range(0, len(flat), event.dimensions)]
    elif isinstance(event, Failed):
        raise BY_CODE.get(event.code, GenerationFailed).revive(event.numbers)
    elif isinstance(event, Cancelled):
        raise GenerationFailed("The model was unloaded meanwhile.")
