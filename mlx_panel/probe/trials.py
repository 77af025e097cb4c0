"""Trials of a model with real requests: each says what came out, and nothing of what was written."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, NamedTuple

import msgspec

from ..errors import ContextLengthExceeded, MemoryExceeded, MlxPanelError, Timeout
from ..library import Finding, Level
from ..messages import EmbedRequest, GenerateRequest, Message, Sampling, Thinking, Tool, Tools
from ..pool.process import Worker
from .asking import Answer, Limits, ask
from .signs import called, cosine, dialects_in, norm, styles_in

GREEDY = Sampling(temperature=0)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("get_weather", "The weather in a city now.", CITY)
TOLD = "Tell me about the sea."
ASKED = "What is the weather in Paris now? Use the tool."
WONDERED = "Which is larger, 9.11 or 9.9? Think first, then answer."
ALIKE = ("cat", "kitten", "The invoice is due at the end of the month.")
CANDIDATES = 3  # dialects or styles that are tried beside the model's own
SHORT, BUDGET = 256, 16


class Outcome(NamedTuple):
    """What a trial found, and what it changes in the model's capabilities."""

    findings: tuple[Finding, ...]
    changes: dict[str, Any]


Trial = Callable[[], Awaitable[Outcome]]


class Trials:
    """What trials of every kind of model have: a worker, and what asking it may cost."""

    def __init__(self, worker: Worker, limits: Limits):
        assert worker.ready is not None
        self.worker, self.limits = worker, limits
        self.info = worker.ready.info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.worker.model.id}>"

    @property
    def steps(self) -> dict[str, Trial]:
        """The trials that are for this model, in order."""
        raise NotImplementedError

    def tokens(self, count: int) -> tuple[int, ...]:
        """A prompt that nobody has asked before, so that none of it is remembered."""
        return tuple(random.choices(range(max(1, self.info.vocab_size)), k=max(1, count)))

    async def ask(self, request: GenerateRequest | EmbedRequest) -> Answer:
        return await ask(self.worker, request, self.limits.seconds)


class TextTrials(Trials):
    """Of a model that writes. `vocabulary` are the tokens of its tokenizer, `switch` the template's value that turns
    reasoning on and off."""

    def __init__(self, worker: Worker, limits: Limits, vocabulary: Collection[str] = (), switch: str = ""):
        super().__init__(worker, limits)
        self.vocabulary, self.switch = vocabulary, switch

    @property
    def steps(self) -> dict[str, Trial]:
        spoken: dict[str, Trial] = {"thinking": self.thinking, "tools": self.tools}
        return {"text": self.text, "context": self.context, **(spoken if self.info.chat_template else {})}

    async def text(self) -> Outcome:
        """The same greedy answer twice."""
        request = self._request(TOLD, max_tokens=self.limits.tokens, ignore_eos=True)
        one, two = await self.ask(request), await self.ask(request)
        same, count = (one.text, one.reasoning) == (two.text, two.reasoning), two.usage.completion_tokens
        words = f"{count} tokens, {two.rate:.1f} a second; a greedy answer is {'the same' if same else 'another one'} the second time."
        value = {"tokens": count, "tokens_per_second": round(two.rate, 2), "repeatable": same}
        return Outcome((line("text", same and count > 0, words, value),), {})

    # --- context ---------------------------------------------------------------------------------------------

    async def context(self) -> Outcome:
        """The longest prompt that fits, within what a probe may cost."""
        stated = self.info.context_length
        first = await self.ask(self._prompt(min(SHORT, stated - 1)))
        most = max(SHORT, int(first.speed * self.limits.prefill_seconds))
        wanted = min(stated - 1, self.limits.context, most)
        why = "" if wanted == stated - 1 else " A longer prompt was not tried."
        answer, refused = await self._longest(first, wanted)
        used = answer.usage.prompt_tokens + answer.usage.completion_tokens
        words = f"{used:,} of the {stated:,} tokens that it states were processed, {answer.speed:,.0f} a second.{refused or why}"
        value = {"tokens": used, "stated": stated, "tokens_per_second": round(answer.speed, 1)}
        return Outcome((line("context", not refused, words, value),), {"usable_context": used})

    async def _longest(self, first: Answer, wanted: int) -> tuple[Answer, str]:
        """The answer to the longest prompt that is taken, and why a longer one was refused."""
        refused = ""
        while wanted > first.usage.prompt_tokens:
            try:
                return await self.ask(self._prompt(wanted)), refused
            except (MemoryExceeded, ContextLengthExceeded) as error:
                room = int(error.numbers.get("largest_context") or error.numbers.get("context_length") or 0)
                wanted, refused = min(room - 1, wanted - 1 - wanted // 8), f" {error}"
            except Timeout:
                refused = f" {wanted:,} tokens took longer than {self.limits.seconds:g} s."
                wanted //= 4
        return first, refused

    def _prompt(self, count: int) -> GenerateRequest:
        return GenerateRequest(
            "", self.worker.model.id, tokens=self.tokens(count), sampling=GREEDY, max_tokens=1, priority="low"
        )

    # --- reasoning -------------------------------------------------------------------------------------------

    async def thinking(self) -> Outcome:
        """Whether it reasons, in which style, and whether that can be switched off and cut short."""
        asked = self._request(WONDERED, max_tokens=self.limits.answer, thinking=self._switched(True))
        answer, style = await self.ask(asked), self.info.reasoning
        if not answer.reasoning:
            answer, style = await self._other_style(asked, answer)
        if not answer.reasoning:
            return Outcome(
                (line("thinking", True, "It does not reason before it answers.", ""),), {"reasoning": ""}
            )
        closed = bool(answer.text.strip() or answer.calls)
        ended = "and ends it" if closed else f"and did not end it within {self.limits.answer} tokens"
        words = f"It reasons in the style {style} {ended}: {answer.usage.reasoning_tokens} tokens."
        found = [line("thinking", closed, words, style)]
        named = msgspec.structs.replace(asked, reasoning_style="" if style == self.info.reasoning else style)
        found += [one async for one in self._steered(named)]
        return Outcome(tuple(found), {"reasoning": style})

    async def _other_style(self, asked: GenerateRequest, answer: Answer) -> tuple[Answer, str]:
        """Read with another style, where the answer or the vocabulary has its marks."""
        for name in styles_in(answer.text, self.vocabulary, self.info.reasoning)[:CANDIDATES]:
            other = await self.ask(msgspec.structs.replace(asked, reasoning_style=name))
            if other.reasoning:
                return other, name
        return answer, ""

    async def _steered(self, asked: GenerateRequest) -> AsyncIterator[Finding]:
        """Whether reasoning obeys its switch and a budget."""
        if self.switch:
            off = await self.ask(msgspec.structs.replace(asked, thinking=self._switched(False)))
            kept = not off.reasoning.strip()
            yield line(
                "thinking",
                kept,
                f"{self.switch} = false {'turns' if kept else 'does not turn'} it off.",
                kept,
            )
        thinking = msgspec.structs.replace(asked.thinking, budget=BUDGET)
        try:
            cut = await self.ask(msgspec.structs.replace(asked, thinking=thinking))
        except MlxPanelError as refused:
            yield line("thinking", False, f"A budget is refused: {refused}", None)
            return
        used = cut.usage.reasoning_tokens
        kept = used <= 2 * BUDGET  # the marks that end it are counted too
        words = f"A budget of {BUDGET} tokens is {'kept' if kept else 'not kept'}: {used} were used."
        yield line("thinking", kept, words, used)

    # --- tools -----------------------------------------------------------------------------------------------

    async def tools(self) -> Outcome:
        """Whether it calls a function that is on offer, in which dialect, and when it has to."""
        offer = {"tools": Tools((WEATHER,)), "thinking": self._switched(False)}
        asked = self._request(ASKED, max_tokens=self.limits.answer, **offer)
        answer, dialect = await self.ask(asked), self.info.tools
        if not _called(answer):
            answer, dialect = await self._other_dialect(asked, answer)
        good, words = _called(answer), "It does not call a tool that is on offer."
        if good:
            words = f"It calls a tool that is on offer, in the dialect {dialect}, with valid arguments."
        elif answer.calls:
            words = "It calls a tool that is on offer, but not with valid arguments."
        demanded = await self._demanded(asked, "" if dialect == self.info.tools else dialect)
        free = line("tools", good or not answer.calls, words, dialect if good else "")
        return Outcome((free, demanded), {"calls": good, **({"tools": dialect} if good else {})})

    async def _other_dialect(self, asked: GenerateRequest, answer: Answer) -> tuple[Answer, str]:
        """Read with another dialect, where the answer is a call in it or the vocabulary has its marks."""
        assert asked.tools is not None
        for name in dialects_in(answer.text, asked.tools, self.vocabulary, self.info.tools)[:CANDIDATES]:
            other = await self.ask(msgspec.structs.replace(asked, tool_dialect=name))
            if _called(other):
                return other, name
        return answer, self.info.tools

    async def _demanded(self, asked: GenerateRequest, dialect: str) -> Finding:
        must = Tools((WEATHER,), choice="required", name=WEATHER.name)
        try:
            answer = await self.ask(msgspec.structs.replace(asked, tools=must, tool_dialect=dialect))
        except MlxPanelError as refused:
            return line("tools", False, f"A call that is demanded fails: {refused}", False)
        if _called(answer):
            return line("tools", True, "A call that is demanded comes, with valid arguments.", True)
        return line(
            "tools", False, "A call that is demanded does not come whole, or without valid arguments.", False
        )

    # --- asking ----------------------------------------------------------------------------------------------

    def _request(self, text: str, **more: Any) -> GenerateRequest:
        chat = {"messages": (Message("user", text),)} if self.info.chat_template else {"prompt": text}
        asked: dict[str, Any] = {**chat, **more}
        return GenerateRequest(
            "", self.worker.model.id, sampling=GREEDY, priority="low", cut_to_context=True, **asked
        )

    def _switched(self, on: bool) -> Thinking:
        return Thinking(enabled=on) if self.switch else Thinking()


class VectorTrials(Trials):
    """Of a model that makes embeddings."""

    @property
    def steps(self) -> dict[str, Trial]:
        return {"embeddings": self.embeddings, "limit": self.limit}

    async def embeddings(self) -> Outcome:
        """Three vectors: their length, and whether what is alike is near."""
        cat, kitten, bill = (await self.ask(self._embed(*ALIKE))).vectors
        near, far, length = cosine(cat, kitten), cosine(cat, bill), norm(cat)
        order = "nearer" if near > far else "not nearer"
        words = f"Vectors of {len(cat)} values, length {length:.3f}; two words that are alike are {order} ({near:.2f}) than two that are not ({far:.2f})."
        value = {
            "dimensions": len(cat),
            "norm": round(length, 4),
            "near": round(near, 4),
            "far": round(far, 4),
        }
        return Outcome((line("embeddings", near > far, words, value),), {"dimensions": len(cat)})

    async def limit(self) -> Outcome:
        """An input as long as it says it takes, and one that is longer."""
        limit = self.info.context_length
        used = (await self.ask(self._embed(self.tokens(limit)))).usage.prompt_tokens
        words, refused = f"An input of {limit:,} tokens, its limit, is read", False
        try:
            await self.ask(self._embed(self.tokens(limit + 1)))
        except ContextLengthExceeded:
            refused = True
        ending = "a longer one is refused." if refused else "and so is a longer one."
        return Outcome((line("limit", refused, f"{words}; {ending}", used),), {"usable_context": used})

    def _embed(self, *inputs: str | tuple[int, ...]) -> EmbedRequest:
        return EmbedRequest("", self.worker.model.id, inputs)


def line(step: str, good: bool, text: str, value: Any) -> Finding:
    """A finding; a warning where something is not as it should be."""
    level: Level = "info" if good else "warning"
    return Finding(step=step, level=level, text=text, value=value)


def _called(answer: Answer) -> bool:
    return called(answer.calls, WEATHER.name)
