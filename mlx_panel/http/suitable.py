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
        field = fields.get(f"template.{unread[0]}", "chat_template_kwargs")
        raise UnsupportedParameter(
            f"'{field}': this model's template does not read '{unread[0]}'.", field=field
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
    reasons = request.reasoning_style or info.reasoning
    switch, budget = fields.get("thinking", ""), fields.get("thinking_budget", "")
    if asked.enabled and not reasons and not read & {*SWITCHES, "reasoning_effort"}:
        raise UnsupportedParameter(f"'{switch}': this model does not reason.", field=switch)
    if asked.enabled is False and reasons and not read & SWITCHES:
        raise UnsupportedParameter(
            f"'{switch}': this model's reasoning cannot be switched off.", field=switch
        )
    if asked.budget is not None and not reasons:
        raise UnsupportedParameter(f"'{budget}': this model does not reason.", field=budget)
