"""mlx-lm's batch generator with three things changed: how tokens are chosen, how long a step lasts, no wired memory.

mlx-lm names its parts (`GenerationBatch`, …) inside its own functions, so a few of these are copied here with other
names behind the same words. mlx-lm itself, used elsewhere in this process, stays as it is.
"""

from __future__ import annotations

import time
from types import FunctionType
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from ..messages import Sampling
from .sampling import BatchSampler

SMALLEST_CHUNK = 64
# How long a step may take before a prefill is cut finer: cancels and heartbeats happen between steps. Seconds.
STEP_SECONDS = 0.5


def _with_names(function: Any, **names: Any) -> Any:
    """A copy of a function for which some of its module's names mean something else."""
    missing = names.keys() - set(function.__code__.co_names)
    if missing:
        raise ImportError(f"this mlx-lm has no {', '.join(missing)} in {function.__qualname__}")
    scope = {**function.__globals__, **names}
    copy = FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class Rows(GenerationBatch):
    """Rows that generate. Their `samplers` are `Sampling` structs, applied to all rows in one pass.

    Log-probabilities are not computed: nothing asks for them, and they cost as much as a small model's step.
    """

    _sampler: BatchSampler | None = None
    _sampled: list[Sampling] | None = None

    def _step(self) -> tuple[list[int], list[Any]]:
        inputs: Any = self._next_tokens
        self._current_tokens = inputs
        logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        self._next_tokens = self._choose(logits)
        nothing: list[Any] = [None] * len(self.uids)
        self._current_logprobs, self._next_logprobs = nothing, list(nothing)
        # The next tokens are computed while the caller works on these.
        mx.async_eval(self._next_tokens)
        tokens = inputs.tolist()
        for context, token in zip(self.tokens, tokens, strict=True):
            context.append(token)
        return tokens, nothing

    def _choose(self, logits: mx.array) -> mx.array:
        samplings: list[Any] = list(self.samplers or ())
        if self._sampler is None or self._sampled != samplings:
            self._sampler, self._sampled = BatchSampler(samplings), samplings
        return self._sampler(logits)


class Prompts(PromptProcessingBatch):
    """Rows whose prompt is being processed; they become `Rows`."""

    generate = _with_names(PromptProcessingBatch.generate, GenerationBatch=Rows)


class Batch(BatchGenerator):
    """Continuous batching: rows join (`insert`) and leave (`remove`) between two calls of `timed_next`.

    `prefill_step` is the most prompt tokens of one row processed in a step. On a slow machine less is taken, so that
    a step lasts about half a second.
    """

    prefill_step: int
    prefill_step_size: int

    # `mx.set_wired_limit`, which mlx-lm's constructor calls, is reported to be behind kernel panics of macOS.
    __init__ = _with_names(
        BatchGenerator.__init__,
        maybe_set_recommended_wired_limit=lambda: None,
        PromptProcessingBatch=Prompts,
        GenerationBatch=Rows,
    )

    @classmethod
    def of(cls, model: Any, eos: set[int], max_batch: int, prefill_step: int) -> Batch:
        batch = cls(
            model,
            stop_tokens=[[token] for token in sorted(eos)],
            completion_batch_size=max_batch,
            prefill_batch_size=min(8, max_batch),
            prefill_step_size=min(prefill_step, 2 * SMALLEST_CHUNK),
        )
        batch.prefill_step = prefill_step
        return batch

    def timed_next(self) -> tuple[list[Any], list[Any]]:
        """`next()`, and the next chunk of prompt fitted to the time this one took."""
        started = time.perf_counter()
        prompts, tokens = self.next()
        if prompts:
            self._fit(time.perf_counter() - started)
        return prompts, tokens

    def _fit(self, seconds: float) -> None:
        size = self.prefill_step_size
        if seconds > STEP_SECONDS:
            size = max(size // 2, SMALLEST_CHUNK)
        elif seconds < STEP_SECONDS / 2:
            size = size * 2
        self.prefill_step_size = min(size, self.prefill_step)
