"""What a generation was done with, in one header: fixed words and numbers, nothing of the request's text."""

from __future__ import annotations

from collections.abc import Iterator

from ..messages import GenerateRequest, Sampling


def receipt(request: GenerateRequest) -> str:
    """`temperature=0.7; top_p=0.9; …`: what has an effect, and, where it is not the default, what else was asked."""
    return "; ".join(f"{name}={_word(value)}" for name, value in _parts(request))


def _parts(request: GenerateRequest) -> Iterator[tuple[str, object]]:
    sampling = request.sampling
    yield "temperature", sampling.temperature
    if sampling.temperature:
        yield from (("top_p", sampling.top_p), ("top_k", sampling.top_k), ("min_p", sampling.min_p))
    yield from _changed(sampling)
    if sampling.temperature:
        yield "seed", sampling.seed
    yield "max_tokens", "context" if request.max_tokens is None else request.max_tokens
    if request.min_tokens:
        yield "min_tokens", request.min_tokens
    yield "n", request.n
    yield from _asked(request)


def _changed(sampling: Sampling) -> Iterator[tuple[str, object]]:
    """What is added to the logits, or taken from them."""
    if sampling.repetition_penalty != 1:
        yield "repetition_penalty", sampling.repetition_penalty
        yield "repetition_context_size", sampling.repetition_context
    if sampling.presence_penalty:
        yield "presence_penalty", sampling.presence_penalty
    if sampling.frequency_penalty:
        yield "frequency_penalty", sampling.frequency_penalty
    if sampling.logit_bias:
        yield "logit_bias", len(sampling.logit_bias)


def _asked(request: GenerateRequest) -> Iterator[tuple[str, object]]:
    thinking, tools = request.thinking, request.tools
    asked = {
        "stop": len(request.stop) or None,
        "ignore_eos": request.ignore_eos or None,
        "echo": request.echo or None,
        "logprobs": request.logprobs,
        "enable_thinking": thinking.enabled,
        "reasoning_effort": thinking.effort,
        "thinking_budget": thinking.budget,
        "tools": len(tools.tools) if tools is not None else None,
        "tool_choice": None if tools is None else "named" if tools.name is not None else tools.choice,
        "parallel_tool_calls": tools.parallel if tools is not None and not tools.parallel else None,
        "structure": request.structure.kind if request.structure is not None else None,
        "deterministic": request.deterministic or None,
    }
    yield from ((name, value) for name, value in asked.items() if value is not None)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "none" if value is None else str(value)
