"""A small server's worth of things to look at, for tests of the dashboard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlx_panel.bench import Machine, Result, Run, Spread, Summary, TargetInfo, Workload
from mlx_panel.cache_log import CacheLog
from mlx_panel.dashboard.recorded import Recorded
from mlx_panel.messages import AuditRecord, Limit
from mlx_panel.settings import Settings
from mlx_panel.snapshot import ModelState, Sample, Snapshot
from mlx_panel.tuning import CacheFigures, CacheRecord, CacheReport, Option

GB = 10**9
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)

FIGURES = CacheFigures(
    kv_dtype="8-bit (group 64)", kv_bytes=210_000_000, bytes=700_000_000, budget=2**30, blocks=321, disk_bytes=3 * GB, disk_budget=8 * 2**30,
    disk_blocks=1400, lookups=60, hits=45, tokens_asked=90_000, tokens_cached=61_000, evicted=12, drafted=400, accepted=220,
)  # fmt: skip
MODELS = (
    ModelState(
        id="org/big",
        state="ready",
        memory=5 * GB,
        disk=4 * GB,
        dtype="4-bit (group 64)",
        running=2,
        cache=FIGURES,
    ),
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


RULES = Option(
    name="strip_rules", value=["claude-code-header"], default=["claude-code-header"], source="default",
    choices=["claude-code-header", "clock", "date", "goose-turn-context"], doc="Lines left out of prompts.",
)  # fmt: skip
REPORTS = (
    CacheReport("a", 900, 0, "none", "first"),
    CacheReport("b", 2113, 1792, "memory", "changed", 1804, 0, "system"),
    CacheReport("c", 2113, 2100, "disk", "hit"),
)


def options() -> list[Option]:
    known = Settings(Path("nowhere")).options()
    return known if any(one.name == RULES.name for one in known) else [*known, RULES]


def cached() -> list[CacheRecord]:
    log = CacheLog()
    for number, report in enumerate(REPORTS):
        log.add(f"req-{number}", "org/big", report, ("clock",) if report.outcome == "changed" else ())
    return log.latest()[::-1]


def result(
    name: str, speed: float = 100.0, concurrency: tuple[int, ...] = (1, 4, 16), **changes: Any
) -> Result:
    """A sweep: `speed` tokens per second for one caller, and what follows from it for more."""
    known: dict[str, Any] = {
        "id": name, "kind": "sweep", "created": NOW, "machine": Machine(cpu="A CPU", cores=8, system="Linux"),
        "versions": {"mlx-panel": "0.2.0", "mlx": "0.32.4"}, "complete": True, "command": "mlx-benchmark sweep",
        "targets": (TargetInfo(name="mlx-panel", kind="url", url="http://127.0.0.1:10242", model="org/big"),),
        "runs": tuple(measured(callers, speed) for callers in concurrency),
    }  # fmt: skip
    return Result(**{**known, **changes})


def measured(callers: int, speed: float) -> Run:
    gap = 1000 / speed * callers**0.4
    summary = Summary(
        requests=max(8, 2 * callers), succeeded=max(8, 2 * callers), seconds=5.0, tokens_per_second=speed * callers**0.6,
        ttft=Spread(8, 60 * callers**0.7, 55 * callers**0.7, 90 * callers**0.8), itl=Spread(99, gap, gap, 1.6 * gap),
    )  # fmt: skip
    return Run(workload=Workload(concurrency=callers), started=NOW, summary=summary)


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


def recorded(rows: int = 60, **more: Any) -> Recorded:
    history = [Sample(NOW.timestamp() - ago, 1, 0, 100.0, 200.0, 4 * GB) for ago in range(120, 0, -1)]
    records = [record(number) for number in range(rows)]
    return Recorded(
        snapshot(audit_rows=rows), history=history, records=records, limits=LIMITS, system=SYSTEM,
        **{"options": options(), "cached": cached(), "pool_settings": Settings(Path("nowhere")).pool_options(), **more},
    )  # fmt: skip
