"""One answer's tokens to events: text, reasoning and tool calls, cut at a stop string. No mlx."""

from __future__ import annotations

from ..messages import Event, GenerateRequest, Reasoning, Text, TokenLogprob, ToolCall
from ..parse.answer import Plain
from ..parse.pieces import Called, Parser, Piece, Said, Thought
from ..parse.stops import StopStrings
from .detokenize import Detokenizer


class Speech:
    """Tokens in, events out. Stop strings are looked for in the answer alone, and not before `min_tokens`.

    `stopped` says that a stop string was met, or a second tool call began where only one may be; nothing follows it.
    `reasoning_tokens` are those that were generated inside reasoning, the marks around it included.
    """

    def __init__(self, request: GenerateRequest, index: int, detokenizer: Detokenizer, parser: Parser):
        self.stopped = False
        self.reasoning_tokens = 0
        self._id, self._index = request.id, index
        self._detokenizer, self._parser = detokenizer, parser
        self._stops = StopStrings(request.stop)
        self._least = request.min_tokens
        self._one_call = request.tools is not None and not request.tools.parallel
        self._calls = 0
        self._tokens = 0
        self._untold = 0
        self._logprobs: list[TokenLogprob] = []
        self._plain = type(parser) is Plain and not request.stop and request.logprobs is None

    def __repr__(self) -> str:
        return f"<Speech {self._tokens} tokens, {self.calls} calls, {self._stops!r}>"

    @property
    def calls(self) -> int:
        """Tool calls that were told."""
        return self._calls

    @property
    def broken(self) -> int:
        """What began like a tool call and came as text."""
        return self._parser.broken

    def add(self, token: int, *, silent: bool, last: bool, logprob: TokenLogprob | None) -> list[Event]:
        """The next token; one that is `silent`, an end of sequence, has no text. After the `last` nothing is held back."""
        self._tokens += 1
        self._untold += 1
        if self._plain and not last:  # nearly every token of most answers
            text = self._detokenizer.add(token)
            return [Text(self._id, text, self._told(), (), self._index)] if text else []
        if logprob is not None:
            self._logprobs.append(logprob)
        thought = self._parser.thinking
        text = "" if silent else self._detokenizer.add(token)
        events = self._tell(self._parser.feed(text)) if text else []
        if thought or self._parser.thinking:
            self.reasoning_tokens += 1
            # A mark is told of by no event, and its log-probability is none of the answer's.
            self._logprobs.clear()
        return events + self._rest() if last and not self.stopped else events

    def _rest(self) -> list[Event]:
        text = self._detokenizer.flush()
        events = self._tell(self._parser.feed(text)) if text else []
        events += self._tell(self._parser.flush())
        return events if self.stopped else events + self._cut(self._stops.flush())

    def _tell(self, pieces: list[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if self.stopped:
                break
            if type(piece) is Said:
                events += self._say(piece.text)
                continue
            # What was held for a stop string is followed by something else, so it is none.
            events += self._cut(self._stops.flush())
            if not self.stopped:
                events += self._other(piece)
        return events

    def _say(self, text: str) -> list[Event]:
        if self._tokens < self._least:
            return self._cut((text, False))
        return self._cut(self._stops.feed(text))

    def _cut(self, found: tuple[str, bool]) -> list[Event]:
        text, self.stopped = found
        if not text:
            return []
        logprobs, self._logprobs = tuple(self._logprobs), []
        return [Text(self._id, text, self._told(), logprobs, self._index)]

    def _other(self, piece: Piece) -> list[Event]:
        # Log-probabilities are told of the answer's tokens.
        self._logprobs.clear()
        if isinstance(piece, Thought):
            return [Reasoning(self._id, piece.text, self._told(), self._index)]
        assert isinstance(piece, Called)
        if self._one_call and piece.call > 0:
            self.stopped = True
            return []
        self._calls = max(self._calls, piece.call + 1)
        return [ToolCall(self._id, piece.call, piece.name, piece.arguments, self._told(), self._index)]

    def _told(self) -> int:
        told, self._untold = self._untold, 0
        return told
