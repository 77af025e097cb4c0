"""Structure that is guaranteed: grammars compiled by llguidance, away from the engine's thread, each once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from llguidance import LLMatcher, LLTokenizer

from ...errors import MlxPanelError
from ..guide import Guide, GuideLost
from . import tokens
from .guide import LlGuide
from .limits import STACK_BYTES, check_size, error_of, parser_limits

__all__ = ["Grammars"]

T = TypeVar("T")
# Grammars that are kept compiled; a kept error counts too.
KEPT = 64


class Grammars:
    """Compiles the grammars of one model, one after the other, in a thread of its own.

    `tokenizer` is mlx-lm's wrapper, `vocabulary` the number of tokens in the model's logits, `eos` the tokens that end an
    answer. What llguidance has to know of the tokenizer is made when the first grammar comes, or by `warm_up`: for that
    Python stands still (0.15 s for 49,152 tokens, 0.4 s for 151,936), other threads too.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, eos: Collection[int]):
        self._made = tokenizer
        self._vocabulary, self._eos = vocabulary, sorted(eos)
        self._tokenizer: LLTokenizer | None = None
        self._known: OrderedDict[bytes, LlGuide | MlxPanelError] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "grammars")
        self._started = False

    def __repr__(self) -> str:
        return f"<Grammars {len(self._known)} known>"

    def warm_up(self) -> None:
        """Make what the first grammar would have to wait for, in the compiling thread."""
        self._submit(self._known_tokens)

    def compile(self, source: str) -> Future[Guide]:
        """The guide of a grammar (llguidance's Lark, or JSON with a list of grammars), a fresh one for each call.

        The future raises InvalidGrammar or GrammarTooComplex. The first mask is made with it, so that a grammar that
        explodes at once does so here.
        """
        key = hashlib.sha256(source.encode(errors="surrogatepass")).digest()
        known = self._recall(key)
        if known is None:
            return self._submit(self._compile, key, source)
        done: Future[Guide] = Future()
        if isinstance(known, MlxPanelError):
            done.set_exception(known.revive(known.numbers))
        else:
            done.set_result(known.copy())
        return done

    def close(self) -> None:
        """What has not begun to be compiled never is; a grammar under way is finished and thrown away."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- inside ----------------------------------------------------------------------------------------------

    def _recall(self, key: bytes) -> LlGuide | MlxPanelError | None:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def _submit(self, work: Callable[..., T], *values: Any) -> Future[T]:
        if self._started:
            return self._pool.submit(work, *values)
        # The pool makes its thread with the first piece of work, and asks nobody how large a stack it wants.
        before = threading.stack_size(STACK_BYTES)
        try:
            self._started = True
            return self._pool.submit(work, *values)
        finally:
            threading.stack_size(before)

    def _compile(self, key: bytes, source: str) -> Guide:
        """In the pool's thread. Another request may have asked for the same meanwhile."""
        known = self._recall(key)
        if known is None:
            known = self._built(source)
            with self._lock:
                self._known[key] = known
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
        if isinstance(known, MlxPanelError):
            raise known.revive(known.numbers)
        return known.copy()

    def _built(self, source: str) -> LlGuide | MlxPanelError:
        try:
            check_size(source)
            known = self._known_tokens()
        except MlxPanelError as error:
            return error
        matcher = LLMatcher(known, source, log_level=0, limits=parser_limits())
        guide = LlGuide(matcher, known.vocab_size, self._vocabulary)
        if guide.error:
            return error_of(guide.error, source)
        try:
            guide.mask()
        except GuideLost:
            return error_of(guide.error, source)
        return guide

    def _known_tokens(self) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = tokens.tokenizer(self._made, self._vocabulary, self._eos)
        return self._tokenizer
