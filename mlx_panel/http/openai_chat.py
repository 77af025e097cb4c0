"""`POST /v1/chat/completions`: OpenAI's chat dialect."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from ..errors import InvalidParameter
from ..messages import Done, Echo, GenerateRequest, Reasoning, Text, Thinking, ToolCall, Tools, Usage
from . import decode as bodies
from .answer import Answer, Choice, Piece, Places
from .generation import Call, Generation
from .openai_calls import call_delta, calls
from .openai_fields import NO_EFFECT, OTHER_NAMES, Alternatives, Common, Count
from .openai_format import weighed
from .openai_logprobs import chat_logprobs
from .openai_messages import Turn, conversation, turn_fields
from .openai_objects import Head, template
from .openai_thinking import Budget, Effort, thinking
from .openai_thinking import Reasoning as ReasoningSpec
from .openai_tools import ChoiceSpec, ToolSpec, tool_fields
from .openai_tools import tools as functions

MAX_TEMPLATE = 64 << 10  # bytes of JSON
SWITCHES = {"enable_thinking", "thinking", "reasoning_effort"}
encode = msgspec.json.Encoder().encode
VOCABULARY = bodies.Vocabulary(
    unsupported={
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "verbosity": ("medium",),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "moderation": (),
        "store": (False,),
        **dict.fromkeys(OTHER_NAMES, ()),
    },
    instead={"functions": "tools", "function_call": "tool_choice", **OTHER_NAMES},
    without_effect=NO_EFFECT,
)


class ChatBody(Common, frozen=True, kw_only=True):
    messages: list[Turn]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: ChoiceSpec | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    thinking_budget: Budget | None = None
    reasoning: ReasoningSpec | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def limit(self) -> int | None:
        """`max_completion_tokens` is the newer name of `max_tokens`; two different numbers are a mistake."""
        if (
            None not in (self.max_tokens, self.max_completion_tokens)
            and self.max_tokens != self.max_completion_tokens
        ):
            raise InvalidParameter(
                "'max_tokens' and 'max_completion_tokens' differ; send one.", field="max_completion_tokens"
            )
        return self.max_completion_tokens or self.max_tokens

    def said(self) -> frozenset[str]:
        return super().said() | ({"max_tokens"} if self.max_completion_tokens is not None else set())

    def alternatives(self) -> int | None:
        """How many likely tokens to show beside each, None without log-probabilities."""
        if self.top_logprobs and not self.logprobs:
            raise InvalidParameter("'top_logprobs' needs 'logprobs': true.", field="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def functions(self) -> Tools | None:
        return functions(self.tools, self.tool_choice, self.parallel_tool_calls)

    def thinking(self) -> tuple[Thinking, dict[str, str]]:
        return thinking(self.reasoning_effort, self.enable_thinking, self.thinking_budget, self.reasoning)

    def template(self, thinking: Thinking) -> dict[str, Any]:
        """Values for the template's own variables. Raises InvalidParameter where a field says the same thing."""
        given, field = self.chat_template_kwargs or {}, "chat_template_kwargs"
        if (thinking.enabled is not None or thinking.effort is not None) and SWITCHES & set(given):
            raise InvalidParameter(f"'{field}' sets what another field sets; send one.", field=field)
        weighed(given, field, MAX_TEMPLATE)
        return given


def decode(body: bytes, *, id: str, refuse_unknown: bool) -> Call:
    """A chat request. Raises BadRequest's children."""
    raw = bodies.load(body)
    chat, ignored = bodies.take(raw, ChatBody, VOCABULARY, refuse_unknown=refuse_unknown)
    tools, messages = chat.functions(), conversation(chat.messages)
    inner = turn_fields(raw, refuse_unknown) + tool_fields(raw.get("tools") or [], refuse_unknown)
    structure, held = chat.structure()
    thought, names = chat.thinking()
    request = GenerateRequest(
        id=id,
        model=chat.model,
        messages=messages,
        sampling=chat.sampling(),
        n=chat.n or 1,
        max_tokens=chat.limit(),
        min_tokens=chat.least(chat.limit()),
        ignore_eos=bool(chat.ignore_eos),
        stop=chat.stops(),
        logprobs=chat.alternatives(),
        deterministic=bool(chat.deterministic),
        tools=tools,
        structure=structure,
        thinking=thought,
        template=chat.template(thought),
    )
    return Call(
        (request,),
        stream=bool(chat.stream),
        usage=chat.wants_usage(),
        progress=chat.wants_progress(),
        ignored=ignored + inner + chat.without_effect(),
        fields={**names, **chat.names(held)},
        said=chat.said(),
    )


class ChatReply:
    """Events as `chat.completion` and `chat.completion.chunk` objects."""

    def __init__(self, call: Call, places: Places, *, id: str, created: int):
        self._head = Head(
            call, places, id=id, created=created, kind="chat.completion", chunk="chat.completion.chunk"
        )
        self._places = places
        self._logprobs = call.first.logprobs is not None
        self._may_call = call.first.tools is not None
        self.plain = not self._logprobs
        self._said = [template(self._delta(at, {"content": ""}), "content") for at in range(places.count)]
        self._thought = [
            template(self._delta(at, {"reasoning_content": ""}), "reasoning_content")
            for at in range(places.count)
        ]

    def __repr__(self) -> str:
        return f"<ChatReply {self._head!r}>"

    def opening(self) -> bytes:
        # Like OpenAI's: null where it may stay so, as with a call alone.
        first = {"role": "assistant", "content": None if self._may_call else "", "refusal": None}
        return b"".join([self._delta(at, first) for at in range(self._places.count)])

    def chunk(self, event: Piece | Echo | Done) -> bytes:
        if type(event) is Text and self.plain:  # nearly always, and this runs for each token
            before, after = self._said[self._places.first[event.id] + event.index]
            return before + encode(event.text) + after
        if type(event) is Reasoning:
            before, after = self._thought[self._places.first[event.id] + event.index]
            return before + encode(event.text) + after
        return self._other(event)

    def _other(self, event: Piece | Echo | Done) -> bytes:
        if isinstance(event, Echo):
            return b""  # never asked for here
        at = self._places.of(event)
        if isinstance(event, Text):
            return self._delta(at, {"content": event.text}, logprobs=chat_logprobs(event.logprobs))
        if isinstance(event, ToolCall):
            return self._delta(at, {"tool_calls": [call_delta(event)]})
        assert isinstance(event, Done)
        return self._delta(at, {}, event.finish_reason, unparsed=event.broken)

    def progress(self, progress: dict[str, Any]) -> bytes:
        return self._head.progress(progress)

    def closing(self, usage: Usage) -> bytes:
        return self._head.closing(usage)

    def whole(self, answer: Answer, usage: Usage) -> bytes:
        return self._head.whole([self._whole(at, one) for at, one in enumerate(answer.choices)], usage)

    def _whole(self, at: int, choice: Choice) -> dict[str, Any]:
        text = choice.text
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if choice.calls else "")}
        message["refusal"] = None
        if choice.thoughts:
            message["reasoning_content"] = "".join(choice.thoughts)
        if choice.calls:
            message["tool_calls"] = calls(choice)
        logprobs = chat_logprobs(choice.logprobs) if self._logprobs else None
        made = {"index": at, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}
        return made | _unparsed(choice.broken)

    def _delta(
        self,
        at: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        *,
        logprobs: dict[str, Any] | None = None,
        unparsed: int = 0,
    ) -> bytes:
        choice = {"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head.piece(choice | _unparsed(unparsed))


def _unparsed(count: int) -> dict[str, int]:
    """A member of our own: what began like a tool call and could not be read, which is in the text."""
    return {"unparsed_tool_calls": count} if count else {}


class ChatCompletions(Generation):
    route = "/v1/chat/completions"
    limit = "timeout_chat_seconds"
    asks_in = "messages"

    def decode(self, body: bytes, *, id: str, refuse_unknown: bool) -> Call:
        return decode(body, id=id, refuse_unknown=refuse_unknown)

    def speak(self, call: Call, places: Places) -> ChatReply:
        return ChatReply(call, places, id=f"chatcmpl-{call.first.id}", created=int(time.time()))


routes = [(ChatCompletions.route, ChatCompletions)]
