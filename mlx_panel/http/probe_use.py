"""A request with what a probe of its model found: the dialect and the style it really uses, where its files say another."""

from __future__ import annotations

import msgspec

from ..library import Capabilities
from ..messages import GenerateRequest, ModelInfo


def use(request: GenerateRequest, info: ModelInfo, found: Capabilities | None) -> GenerateRequest:
    """What the request, or its preset, already names stays; `info` is what the worker reads answers with by itself."""
    if found is None or request.messages is None:
        return request
    dialect, style = found.tools if "tools" in found.kinds else "", found.reasoning
    changes = {}
    if dialect not in ("", info.tools) and not request.tool_dialect:
        changes["tool_dialect"] = dialect
    if style not in ("", info.reasoning) and not request.reasoning_style:
        changes["reasoning_style"] = style
    return msgspec.structs.replace(request, **changes) if changes else request
