"""What the server is doing now: counters that requests and workers move, sampled once a second for who watches."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .messages import AuditRecord
from .snapshot import ModelState, Sample, Snapshot

Watcher = Callable[[Snapshot, list[Sample] | None], None]
HISTORY = 120
TTFT_WINDOW = 60.0


class Meter:
    """Counters of this server's life. `len(meter)` is the number of model requests under way.

    `dropped` says how many rows of the audit log are lost.
    """

    def __init__(self, dropped: Callable[[], int] = lambda: 0) -> None:
        self._dropped = dropped
        self.ignored_fields = 0
        self.benchmark_changes = self.library_changes = self.preset_changes = 0
        self._running = 0
        self._total = 0
        self._errors = 0
        self._ttft: deque[tuple[float, float]] = deque()

    def __len__(self) -> int:
        return self._running

    def __repr__(self) -> str:
        return f"<Meter {self._running} running, {self._total} in all, {self._errors} errors>"

    @contextlib.contextmanager
    def request(self, count: int = 1) -> Iterator[None]:
        """So many model requests are under way: a body with several prompts is several."""
        self._running += count
        try:
            yield
        finally:
            self._running -= count

    def first_token(self, seconds: float) -> None:
        self._ttft.append((time.monotonic(), seconds))

    def benchmarks_changed(self) -> None:
        """There is news of the benchmark that runs, or of those stored."""
        self.benchmark_changes += 1

    def library_changed(self) -> None:
        """There is news of the models on this machine."""
        self.library_changes += 1

    def presets_changed(self) -> None:
        """There is news of the presets or the aliases."""
        self.preset_changes += 1

    def saw(self, record: AuditRecord) -> None:
        """A request has ended."""
        if record.dialect == "management":
            return
        self._total += 1
        self._errors += record.status in ("error", "timeout")

    @property
    def ttft_ms(self) -> float | None:
        """Median time to first token over the last minute, in milliseconds."""
        while self._ttft and self._ttft[0][0] < time.monotonic() - TTFT_WINDOW:
            self._ttft.popleft()
        return statistics.median(seconds for _, seconds in self._ttft) * 1000 if self._ttft else None

    def figures(self) -> dict[str, Any]:
        """The meter's part of a snapshot."""
        return {
            "requests": self._running, "requests_total": self._total, "errors_total": self._errors,
            "audit_rows": self._total, "ttft_ms": self.ttft_ms, "benchmark_changes": self.benchmark_changes,
            "library_changes": self.library_changes, "preset_changes": self.preset_changes, "audit_dropped": self._dropped(),
        }  # fmt: skip


class Rates:
    """Counters into rates per second, by name; a counter that falls belongs to a new process and starts again."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}

    def rate(self, name: str, count: int) -> float:
        now = time.monotonic()
        before, last = self._last.get(name, (now, count))
        self._last[name] = (now, count)
        return max(0, count - last) / (now - before) if now > before else 0.0

    def keep(self, names: set[str]) -> None:
        self._last = {name: value for name, value in self._last.items() if name in names}


class History:
    """The last snapshots, in the short form the sparklines draw."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=HISTORY)

    def add(self, snapshot: Snapshot) -> None:
        self._samples.append(
            Sample(
                snapshot.time,
                snapshot.requests,
                snapshot.queued,
                snapshot.tokens_per_second,
                snapshot.ttft_ms,
                snapshot.memory_used,
            )
        )

    def samples(self) -> list[Sample]:
        return list(self._samples)


def total(models: tuple[ModelState, ...], field: str) -> int:
    return sum(getattr(model, field) for model in models)
