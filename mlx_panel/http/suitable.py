"""What only the model decides: whether it has the tokens, the switches and the reasoning that a request counts on."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidParameter, UnsupportedParameter
from ..messages import GenerateRequest, ModelInfo
from .decode import printable

SWITCHES = {"enable_thinking", "thinking"}


def check(request: GenerateRequest, info: ModelInfo, fields: Mapping[str, str]) -> None:
    """Raises InvalidParameter and UnsupportedParameter; `fields` says what the caller called a field."""
    _tokens(request, info)
    _thinking(request, info, fields)
    unread = printable(set(request.template) - set(info.template_variables))
    if unread:
        raise UnsupportedParameter(
            f"'chat_template_kwargs': this model's template does not read '{unread[0]}'.",
            field="chat_template_kwargs",
        )


def _tokens(request: GenerateRequest, info: ModelInfo) -> None:
    wrong = {
        "logit_bias": max(request.sampling.logit_bias, default=-1),
        "prompt": max(request.tokens or (), default=-1),
    }
    for field, token in wrong.items():
        if token >= info.vocab_size:
            raise InvalidParameter(f"'{field}' names a token that this model does not have.", field=field)


def _thinking(request: GenerateRequest, info: ModelInfo, fields: Mapping[str, str]) -> None:
    asked, read = request.thinking, set(info.template_variables)
    switch, budget = fields.get("thinking", ""), fields.get("thinking_budget", "")
    if asked.enabled and not info.reasoning and not read & {*SWITCHES, "reasoning_effort"}:
        raise UnsupportedParameter(f"'{switch}': this model does not reason.", field=switch)
    if asked.enabled is False and info.reasoning and not read & SWITCHES:
        raise UnsupportedParameter(
            f"'{switch}': this model's reasoning cannot be switched off.", field=switch
        )
    if asked.budget is not None and not info.reasoning:
        raise UnsupportedParameter(f"'{budget}': this model does not reason.", field=budget)
