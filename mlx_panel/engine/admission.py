"""Memory for requests: what one may come to need, whether it fits at all, and who may start beside those that run.

Pure bookkeeping, no mlx. What counts is what a request may come to need, not what it has now: nothing that runs is ever
stopped for memory. An answer without a limit of its own is the exception: it counts for a share, gets more as it grows,
and ends (as if it had asked for that length) when there is no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from ..errors import MemoryExceeded
from ..messages import GenerateRequest
from ..sizing import MOST, STEP, Room, Shape, kv_bytes, largest_context, size, stepped
from ..tuning import EngineOptions
from .prompt import Prompt
from .queue import NO_LIMIT, Space
from .row import Row

# Tokens of a usual prompt.
USUAL = 4096
# An answer without a limit counts for an eighth of what would fit if it were alone, within these bounds, in tokens.
SHARES, LEAST_SHARE, LARGEST_SHARE = 8, 256, 4096
# It gets so many steps of a cache more when it has fewer tokens than that left; no pass takes as many guesses ahead.
MORE, MARGIN = 2, 64


class Admission:
    """The engine's memory. `shape` says what the KV caches of a sequence take as they are really made, `resident` what the
    process takes without any cache, bytes. Without a `memory_limit` everything fits.

    `starving` says that an answer needs more room now and there is none: nobody starts meanwhile.
    """

    def __init__(self, shape: Shape, options: EngineOptions):
        self.shape = msgspec.structs.replace(shape, weights=0, tokenizer=0, context_length=0)
        self.options = options
        self.resident = 0
        self.starving = False

    def __repr__(self) -> str:
        return f"<Admission {self.resident >> 20} of {self.limit >> 20} MiB resident>"

    @property
    def limit(self) -> int:
        """What the process may take, bytes; 0 is no limit."""
        return self.options.memory_limit

    def learn(self, caches: Shape, resident: int) -> None:
        """What the real caches take, and the process without them."""
        names = ("kv_token", "kv_values", "kv_fixed", "kv_window", "kv_window_token")
        self.shape = msgspec.structs.replace(self.shape, **{name: getattr(caches, name) for name in names})
        self.resident = resident

    # --- one request -----------------------------------------------------------------------------------------

    def cut(self, prompt: Prompt, request: GenerateRequest) -> Prompt:
        """The prompt with as much room for its answer as there can be.

        Raises MemoryExceeded when it does not fit even alone: with its `max_tokens`, or, where it has none, with a token.
        """
        wanted, length = max(prompt.max_tokens, prompt.most), len(prompt.tokens)
        if not self.limit:
            return msgspec.structs.replace(prompt, max_tokens=wanted, most=wanted)
        most = largest_context(self.shape, self._room(), self.limit, request.n) - length
        if request.max_tokens is not None and not request.cut_to_context:
            if most < wanted:
                raise self._exceeded(length + wanted, request)
            return prompt
        if most < 1:
            raise self._exceeded(length + 1, request)
        share = max(LEAST_SHARE, min(most // SHARES, LARGEST_SHARE))
        return msgspec.structs.replace(prompt, max_tokens=min(share, most, wanted), most=wanted)

    def _exceeded(self, tokens: int, request: GenerateRequest) -> MemoryExceeded:
        needed = size(self.shape, self._room(tokens, request.n)).total - self.resident
        numbers = {
            "needed_bytes": needed,
            "available_bytes": max(0, self.limit - self.resident),
            "largest_context": largest_context(self.shape, self._room(), self.limit, request.n),
        }
        field = "prompt" if request.messages is None else "messages"
        error = MemoryExceeded.revive(numbers)
        error.field = field
        return error  # type: ignore[return-value]

    def _room(self, context: int = 0, batch: int = 1) -> Room:
        step = self.options.prefill_step
        return Room(context=context, batch=batch, prefill_step=step, process=self.resident)

    # --- several ---------------------------------------------------------------------------------------------

    def needs(self, row: Row) -> int:
        """Bytes that the KV caches of a row and its choices may come to take."""
        return kv_bytes(self.shape, _length(row), row.width)

    def weigh(self, row: Row) -> None:
        """Note what a row that waits may come to need."""
        row.needs, row.transient = self.needs(row), self._transient([row])

    def space(self, running: Sequence[Row], held: int, places: int = 0) -> Space:
        """What there is for rows that wait, beside those that run, whose caches hold `held` bytes by now.

        What a batch holds beyond its rows' tokens is wasted: slots in reserve, columns of rows shorter than others.
        """
        used = sum(kv_bytes(self.shape, row.position) for row in running)
        return Space(
            0 if self.starving else places,
            memory=self.limit - self.resident if self.limit else NO_LIMIT,
            reserved=sum(map(self.needs, running)),
            width=sum(row.width for row in running),
            wasted=max(0, held - used),
            transient=self._transient(running),
        )

    @property
    def pass_bytes(self) -> int:
        """Bytes that a pass over a prompt of usual length takes for a while."""
        return size(self.shape, self._room(USUAL)).transient

    def committed(self, rows: Sequence[Row], held: int = 0) -> int:
        """Bytes that the process may come to take for these rows."""
        return self.resident + self.space(rows, held).taken

    def _transient(self, rows: Iterable[Row]) -> int:
        longest = max(map(_length, rows), default=0)
        return size(self.shape, self._room(longest)).transient if longest else 0

    def extend(self, rows: Sequence[Row], held: Callable[[], int]) -> None:
        """Give answers without a limit more room before they come to the end of theirs, as far as there is some."""
        self.starving = False
        for row in rows:
            if row.prompt.most > row.prompt.max_tokens and row.room <= MARGIN:
                self.starving = not self._extended(row, rows, held()) or self.starving

    def _extended(self, row: Row, rows: Sequence[Row], held: int) -> bool:
        """Whether a row could be given more room: as much as there is, at most `MORE` steps of a cache."""
        before, length = row.prompt, len(row.prompt.tokens)
        whole = stepped(length + before.max_tokens) - length
        for more in range(MORE, -1, -1):
            longer = min(before.most, whole + more * STEP)
            row.prompt = msgspec.structs.replace(before, max_tokens=longer)
            # The rest of a step is there already.
            if not more or not self.limit or self.committed(rows, held) <= self.limit:
                break
        return row.prompt.max_tokens > before.max_tokens


def _length(row: Row) -> int:
    """Tokens that a row may come to have."""
    return min(len(row.prompt.tokens) + row.prompt.max_tokens, MOST)
