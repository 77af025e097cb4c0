"""A small server's worth of things to look at, for tests of the dashboard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from mlx_panel.dashboard.source import Recorded
from mlx_panel.messages import AuditRecord, Limit, ModelState, Sample, Snapshot

GB = 10**9
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)

MODELS = (
    ModelState(id="org/big", state="ready", memory=5 * GB, disk=4 * GB, dtype="4-bit (group 64)", running=2),
    ModelState(id="org/small", state="available", disk=GB, dtype="bfloat16", context_length=8192),
)
LIMITS = (
    Limit("timeout_chat_seconds", "Chat", 900.0, 900.0, 1.0, 86400.0, "default"),
    Limit("timeout_completions_seconds", "Completions", 600.0, 600.0, 1.0, 86400.0, "file"),
)
SYSTEM = {
    "versions": {"mlx": "0.32.4"},
    "blas": {"name": "reference BLAS", "fast": False, "fix": "apt install libopenblas0"},
    "data_folder": "/home/me/.mlx-panel",
}


def snapshot(**changes: Any) -> Snapshot:
    known: dict[str, Any] = {
        "time": NOW.timestamp(), "requests": 2, "tokens_per_second": 170.4, "memory_used": 5 * GB,
        "memory_limit": 16 * GB, "audit_rows": 60, "models": MODELS,
    }  # fmt: skip
    return Snapshot(**{**known, **changes})


def record(number: int, **changes: Any) -> AuditRecord:
    known: dict[str, Any] = {
        "request_id": f"req-{number:08d}-abcdef", "timestamp": NOW + timedelta(seconds=number),
        "endpoint": "/v1/chat/completions", "dialect": "openai", "status": "success", "http_status": 200,
        "model_requested": "org/big", "model_used": "org/big", "duration_ms": 1234.0, "completion_tokens": 42,
    }  # fmt: skip
    return AuditRecord(**{**known, **changes})


def recorded(rows: int = 60, **options: Any) -> Recorded:
    history = [Sample(NOW.timestamp() - ago, 1, 0, 100.0, 200.0, 4 * GB) for ago in range(120, 0, -1)]
    records = [record(number) for number in range(rows)]
    return Recorded(
        snapshot(audit_rows=rows), history=history, records=records, limits=LIMITS, system=SYSTEM, **options
    )
