"""Errors as bodies: an RFC 9457 problem document that OpenAI clients understand too."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import (
    BadRequest,
    CrashLoop,
    GenerationFailed,
    MlxPanelError,
    ModelStopped,
    Timeout,
    Unavailable,
    UpgradeRequired,
    WorkerDied,
    status_of,
)

# What may come after work has begun; work is never done twice unasked.
STARTED = (Timeout, WorkerDied, GenerationFailed, ModelStopped)
CONTENT_TYPE = "application/problem+json"


def problem(error: MlxPanelError, *, request_id: str, instance: str | None = None) -> dict[str, Any]:
    """The problem document of an error (RFC 9457), with `error` as OpenAI's API documents it."""
    body: dict[str, Any] = {
        "type": f"urn:mlx-panel:problem:{error.code}",
        "title": error.title,
        "status": status_of(error),
        "detail": str(error),
    }
    if instance is not None:
        body["instance"] = instance
    body["request_id"] = request_id
    body |= error.numbers
    if error.field is not None:
        body["errors"] = [{"field": error.field, "message": str(error)}]
    body["error"] = {"message": str(error), "type": _kind(error), "param": error.field, "code": error.code}
    return body


def encode(error: MlxPanelError, *, request_id: str, instance: str | None = None) -> bytes:
    return msgspec.json.encode(problem(error, request_id=request_id, instance=instance))


def headers(error: MlxPanelError) -> dict[str, str]:
    """What a client should know before it tries again."""
    if isinstance(error, (*STARTED, CrashLoop)):
        return {"x-should-retry": "false"}  # OpenAI's clients would repeat them, and the work with them.
    if isinstance(error, Unavailable):
        return {"Retry-After": "1"}
    if isinstance(error, UpgradeRequired):
        return {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    return {}


def _kind(error: MlxPanelError) -> str:
    if isinstance(error, Timeout):
        return "timeout_error"
    return (
        "server_error"
        if status_of(error) >= 500
        else "invalid_request_error"
        if isinstance(error, BadRequest)
        else f"{error.code}_error"
    )
