"""What a model is asked for, in any dialect: a conversation or a prompt, and how it is to be answered.

Frozen structs, nothing that acts; `messages.py` says how they travel.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
StructureKind = Literal["json_object", "json_schema", "regex", "choice", "grammar"]
ToolChoice = Literal["auto", "required"]
SEEDS = 1 << 64


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function an assistant turn called; `arguments` is the JSON text the model wrote."""

    name: str
    arguments: str = "{}"


class PastToolCall(msgspec.Struct, frozen=True):
    """A tool call in a replayed assistant turn."""

    id: str
    function: Function
    type: Literal["function"] = "function"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation, content already reduced to text. `reasoning_content` is replayed reasoning."""

    role: Role
    content: str | None = None
    name: str | None = None
    tool_calls: tuple[PastToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function the model may call. `parameters` is the JSON Schema of its arguments, None where none is given.

    With `strict` the arguments are held to the schema while they are generated; without it they are JSON at least.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool = False


class Tools(msgspec.Struct, frozen=True):
    """The functions on offer. `choice` "required" asks for at least one call, of the function `name` if that is set.

    Without `parallel` there is at most one call.
    """

    tools: tuple[Tool, ...]
    choice: ToolChoice = "auto"
    name: str | None = None
    parallel: bool = True

    @property
    def forced(self) -> tuple[Tool, ...]:
        """The functions of which one has to be called; empty where none has to be."""
        if self.choice != "required":
            return ()
        return tuple(tool for tool in self.tools if self.name in (None, tool.name))


class Structure(msgspec.Struct, frozen=True):
    """What the answer has to look like, enforced while it is generated.

    `schema` is the JSON Schema of kind "json_schema", `text` the expression of "regex" or the Lark grammar of "grammar",
    `choices` the answers of "choice". After reasoning it holds from the end of the reasoning on.
    """

    kind: StructureKind
    schema: dict[str, Any] | bool | None = None
    text: str = ""
    choices: tuple[str, ...] = ()


class Thinking(msgspec.Struct, frozen=True):
    """Whether and how much the model reasons before it answers.

    `enabled` and `effort` are for the chat template, None leaves it its default; after `budget` tokens of reasoning the
    reasoning is ended, None is no limit.
    """

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is chosen. `temperature` 0 is greedy; the other values then have no effect.

    `top_p` in (0, 1], 1 is off; `top_k` 0 is off; `min_p` in [0, 1], 0 is off. `repetition_penalty` (1 is off) looks at
    prompt and answer, the last `repetition_context` tokens of them, 0 for all; `presence_penalty` and
    `frequency_penalty` (0 is off) look at the answer. `logit_bias` is added to the logits, by token id. With a `seed`
    the draws are those of any other request with that seed; choice number i of several has the seed plus i.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None

    def seeded(self, seed: int) -> Sampling:
        """The same with this seed, brought into the 64 bits that a seed has."""
        return msgspec.structs.replace(self, seed=(seed + SEEDS // 2) % SEEDS - SEEDS // 2)


class GenerateRequest(msgspec.Struct, frozen=True, tag=True):
    """One prompt and `n` answers to it, each a choice. The prompt is one of `messages` (rendered by the chat template),
    `prompt` (raw text) and `tokens` (ids as they are); it is processed once.

    `max_tokens` None means: up to the model's context; 0 is allowed with `echo`, which gives the prompt back. Neither an
    end of sequence nor a `stop` string ends an answer before `min_tokens`, and no end of sequence with `ignore_eos`.
    `stop` strings end the answer before themselves; they are looked for in the answer, not in reasoning or tool calls.
    `add_special_tokens` says whether a raw prompt gets the tokenizer's BOS. `logprobs` asks for the log-probability of
    each token of the answer (with `echo` of the prompt too) and of so many alternatives (0 to 20). `deterministic` asks
    for a lane of its own: batch size 1, prompt chunks of a fixed size, nothing restored from the prefix cache, and seed 0
    where none is given. `template` are values for the chat template's own variables.

    `tool_dialect` and `reasoning_style` name what the answer is read with instead of the model's own ("" leaves those),
    `context_length` caps prompt and answer together (0: the model's). With `cut_to_context` a `max_tokens` that nobody
    asked for is cut to what the context leaves. A request of `priority` "low" starts after all others that wait, but for
    a bound (`engine/queue.py`). With a `block_key` the prompt's blocks are hashed with it for the audit log.
    """

    id: str
    model: str
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    tokens: tuple[int, ...] | None = None
    sampling: Sampling = Sampling()
    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    add_special_tokens: bool = True
    echo: bool = False
    logprobs: int | None = None
    deterministic: bool = False
    tools: Tools | None = None
    structure: Structure | None = None
    thinking: Thinking = Thinking()
    template: dict[str, Any] = {}
    tool_dialect: str = ""
    reasoning_style: str = ""
    context_length: int = 0
    cut_to_context: bool = False
    priority: Literal["normal", "low"] = "normal"
    block_key: bytes = b""


class EmbedRequest(msgspec.Struct, frozen=True, tag=True):
    """Texts, or token ids as they are, each to a vector. `dimensions` cuts the vectors (and normalises them again).

    An input beyond the model's limit is an error, or is cut to it with `truncate`.
    """

    id: str
    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    truncate: bool = False
