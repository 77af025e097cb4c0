"""llguidance's parser as a guide: the tokens with which an answer stays within its grammar."""

from __future__ import annotations

import numpy as np
from llguidance import LLMatcher

from ..guide import GuideLost, Mask, words


class LlGuide:
    """See `engine.guide.Guide`. Once the answer is complete only the ends of sequence are allowed.

    `size` are the tokens the matcher knows, `vocabulary` those of the model's logits.
    """

    def __init__(self, matcher: LLMatcher, size: int, vocabulary: int):
        self._matcher = matcher
        self._size, self._vocabulary = size, vocabulary
        self._words = np.zeros(words(size), np.uint32)
        self._told = np.zeros(words(vocabulary), np.uint32)
        self._place = self._words.ctypes.data
        self._fresh = False

    def __repr__(self) -> str:
        return f"<LlGuide {self._matcher.stop_reason()}>"

    @property
    def error(self) -> str:
        """llguidance's own words, which may quote the grammar and the answer; "" while all is well."""
        return self._matcher.get_error()

    def mask(self) -> Mask:
        if not self._fresh:
            self._matcher.unsafe_compute_mask_ptr(self._place, self._words.nbytes)
            # It says "end of sequence" then, though the answer may be incomplete.
            if self._matcher.is_error():
                raise GuideLost
            count = min(len(self._words), len(self._told))
            self._told[:count] = self._words[:count]
            self._fresh = True
        return self._told

    def accept(self, token: int) -> None:
        self._fresh = False
        if not self._matcher.consume_token(token):
            raise GuideLost

    def copy(self) -> LlGuide:
        return LlGuide(self._matcher.deep_copy(), self._size, self._vocabulary)
