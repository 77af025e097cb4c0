"""From a request to a row that can run: its prompt, its parser, and the guides that hold it to what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from ..errors import InvalidParameter, MlxPanelError
from ..messages import GenerateRequest
from ..parse.answer import answer
from ..parse.dialect import Dialect
from ..parse.pieces import Parser
from ..parse.reasoning import Style
from . import prompt
from .detokenize import Vocabulary
from .floor import Floor
from .grammar import Grammars
from .grammar.source import source
from .guide import Budget, Guide, Together, Unended
from .manner import Manner, manner
from .prompt import Prompt
from .row import Row
from .sampling import check

# The engine looks again for compiled grammars after so many seconds when it has nothing else to do.
PATIENCE = 0.005
# The request's field that says what an answer is held to.
FIELDS = {"json_object": "response_format", "json_schema": "response_format"}


class Pending(NamedTuple):
    """A row whose grammar is being compiled."""

    row: Row
    guides: list[Guide]
    grammar: Future[Guide]


class Intake:
    """Makes rows of requests. Grammars are compiled in a thread of their own, and rows wait for them here.

    Prompt and answer have `context_length` tokens at most; `cut` leaves an answer the room that there is memory for.
    """

    def __init__(
        self,
        tokenizer: Any,
        architecture: str,
        vocabulary_size: int,
        context_length: int,
        cut: Callable[[Prompt, GenerateRequest], Prompt] = lambda prompt, request: prompt,
    ):
        self.vocabulary = Vocabulary(tokenizer)
        self.manner: Manner = manner(tokenizer, architecture)
        self.pending: list[Pending] = []
        self._tokenizer = tokenizer
        self.context_length = context_length
        self._size, self._cut = vocabulary_size, cut
        self._eos = sorted(tokenizer.eos_token_ids)
        self._floor = Floor(tokenizer)
        self._grammars = Grammars(tokenizer, vocabulary_size, self._eos)

    def __repr__(self) -> str:
        return f"<Intake {self.vocabulary!r}, {len(self.pending)} grammars pending>"

    def warm_up(self) -> None:
        """Begin to make what the first grammar would have to wait for."""
        self._grammars.warm_up()

    def take(self, request: GenerateRequest) -> Row | None:
        """A row for the request, or None while its grammar is compiled: `compiled` gives it later.

        Raises what `prompt.build` and `cut` raise, InvalidParameter and UnsupportedParameter.
        """
        manner = self._check(request)
        built = prompt.build(request, self._tokenizer, self.context_length, self._floor, manner)
        built = self._cut(built, request)
        text = self._grammar(request, built)
        row = Row(request, built, *self._voice(request, built, held=text is not None))
        guides = self._guides(request, built, held=text is not None)
        if text is None:
            row.guide = together(guides)
            return row
        self.pending.append(Pending(row, guides, self._grammars.compile(text)))
        return None

    def compiled(self, *, idle: bool) -> tuple[list[Row], list[tuple[Row, MlxPanelError]]]:
        """The rows whose grammars are ready, and those whose grammars failed. Waits a moment if the engine is idle."""
        if not self.pending:
            return [], []
        if idle:
            wait([pending.grammar for pending in self.pending], PATIENCE, "FIRST_COMPLETED")
        done = [pending for pending in self.pending if pending.grammar.done()]
        self.pending = [pending for pending in self.pending if pending not in done]
        ready, failed = [], []
        for row, guides, grammar in done:
            try:
                row.guide = together([*guides, grammar.result()])
                ready.append(row)
            except MlxPanelError as error:
                error.field = error.field or field_of(row.request)
                failed.append((row, error))
        return ready, failed

    def drop(self, id: str) -> list[Row]:
        """Forget a request that waits for its grammar; its rows."""
        dropped = [pending for pending in self.pending if pending.row.id == id]
        self.pending = [pending for pending in self.pending if pending not in dropped]
        for pending in dropped:
            pending.grammar.cancel()
        return [pending.row for pending in dropped]

    def choices(self, row: Row) -> list[Row]:
        """A row whose prompt is processed, and one for each further choice of its request."""
        request, built = row.request, row.prompt
        others = []
        for index in range(1, request.n):
            voice = self._voice(request, built, held=row.held)
            guide = row.guide.copy() if row.guide is not None else None
            other = Row(request, built, *voice, guide=guide, index=index, tally=row.tally)
            others.append(row.forked(other))
        return [row, *others]

    def text(self, row: Row) -> str:
        """The words of a row's prompt."""
        if row.request.prompt is not None:
            return row.request.prompt
        detokenizer = self.vocabulary.detokenizer()
        return "".join(map(detokenizer.add, row.prompt.tokens)) + detokenizer.flush()

    def close(self) -> None:
        self._grammars.close()

    # --- inside ----------------------------------------------------------------------------------------------

    def _check(self, request: GenerateRequest) -> Manner:
        """How this request is spoken with. Raises InvalidParameter and UnsupportedParameter."""
        check(request.sampling)
        wrong = {
            "logit_bias": max(request.sampling.logit_bias, default=0) >= self._size,
            "prompt": any(not 0 <= token < self._size for token in request.tokens or ()),
        }
        for field in (name for name, bad in wrong.items() if bad):
            raise InvalidParameter(f"{field} names a token the model does not have.", field=field)
        manner = self.manner.asked(request)
        manner.check(request)
        return manner

    def _style(self, request: GenerateRequest) -> Style | None:
        """How this answer reasons, None where it does not."""
        return self.manner.asked(request).style if request.messages is not None else None

    def _dialect(self, request: GenerateRequest) -> Dialect:
        return self.manner.asked(request).dialect

    def _marks(self, request: GenerateRequest) -> Mapping[str, int]:
        """The special tokens that mean something in this answer."""
        style = self._style(request)
        texts = style.markers if style is not None else ()
        return self.vocabulary.marks([*texts, *(self._dialect(request).markers if request.tools else ())])

    def _voice(self, request: GenerateRequest, built: Prompt, *, held: bool) -> tuple[Any, Parser, bool]:
        parser = answer(
            style=self._style(request),
            opened=built.thinking,
            dialect=self._dialect(request) if request.tools else None,
            tools=request.tools,
            eager=held and request.tools is not None,
        )
        shown = {number: text for text, number in self._marks(request).items()}
        return self.vocabulary.detokenizer(shown), parser, held

    def _grammar(self, request: GenerateRequest, built: Prompt) -> str | None:
        if request.structure is None and request.tools is None:
            return None
        return source(
            request,
            dialect=self._dialect(request),
            style=self._style(request),
            opened=built.thinking,
            special=self._marks(request),
        )

    def _guides(self, request: GenerateRequest, built: Prompt, *, held: bool) -> list[Guide]:
        guides: list[Guide] = []
        # What is held to a grammar ends where that allows nothing else, and with `ignore_eos` not before.
        least = max(built.max_tokens, built.most) if held and request.ignore_eos else request.min_tokens
        if least > 0:
            guides.append(Unended(self._eos, least, self._size))
        style, budget = self.manner.asked(request).style, request.thinking.budget
        if budget is not None and style is not None:
            guides.append(self._budget(budget, style, request, built))
        return guides

    def _budget(self, budget: int, style: Any, request: GenerateRequest, built: Prompt) -> Budget:
        marks = self._marks(request)
        shown = {number: text.encode() for text, number in marks.items()}
        closing = self._tokenizer.encode(style.close, add_special_tokens=False)
        return Budget(
            budget,
            open=style.open.encode(),
            close=style.close.encode(),
            closing=closing,
            piece=lambda token: shown.get(token) or self.vocabulary.piece(token),
            thinking=built.thinking,
            vocabulary=self._size,
        )


def together(guides: list[Guide]) -> Guide | None:
    """One guide of several; the last has the last word."""
    return Together(guides) if len(guides) > 1 else guides[0] if guides else None


def field_of(request: GenerateRequest) -> str:
    """The field that says what the answer is held to."""
    kind = request.structure.kind if request.structure is not None else ""
    return FIELDS.get(kind, kind) or "tools"
