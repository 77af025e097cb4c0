"""The past once more: requests that were answered before are asked again, with the gaps they came with.

Their words were never kept. Lengths, sampling values, moments and which prompts began alike were, and `mimic.py` makes
prompts of those.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..inquiry import Past
from .compare import ratios
from .drive import driving
from .figures import summarise
from .load import salted
from .mimic import hashes
from .records import BenchmarkError, Replay, Result, Row, Run, Target, TargetInfo, Workload
from .results import new, with_run
from .sweep import Report, Steps
from .wire import PastFile

RECORDED = "as recorded"
CLOSE = 0.005  # of the prompts' tokens


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """How the past is to be changed: `speed` times as fast, gaps of more than `max_gap` seconds (0: none) cut to that, at
    most `most` requests (0: all), every request to `model`, or those to a model in `instead` to another.
    """

    speed: float = 1.0
    max_gap: float = 0.0
    most: int = 0
    model: str = ""
    instead: Mapping[str, str] = {}

    def whom(self, model: str | None) -> str:
        """Which model answers in another's stead."""
        return self.model or self.instead.get(model or "", model or "")


class Planned(NamedTuple):
    """A replay that can begin. `then` is the past as a run, `file` holds what will be asked; the other fields are one value
    a request. `hashed` of them say how their prompts began, `recorded` is the share of prompt tokens that came from a
    cache then."""

    workload: Workload
    then: Run
    file: Path
    gaps: list[float]
    models: Counter[str]
    hashed: int
    streamed: int
    recorded: float


def plan(
    pasts: Iterable[Past], wish: Wish, file: Path, *, source: str = "", timeout: float = 600.0
) -> Planned:
    """Look at the past, and write to `file` what is to be asked. Raises BenchmarkError where there is nothing."""
    planning = _Planning(wish)
    with file.open("wb") as lines:
        for past in pasts:
            if wish.most and len(planning.rows) >= wish.most:
                break
            lines.write(msgspec.json.encode(planning.take(past)) + b"\n")
    if not planning.rows:
        raise BenchmarkError("No request of the log fits: there is nothing to replay.")
    return planning.planned(file, source, timeout)


class _Planning:
    """Takes one request after the other."""

    def __init__(self, wish: Wish):
        self._wish = wish
        self._digest = hashlib.blake2b(digest_size=8)
        self._seen: set[str] = set()
        self._before = self._at = 0.0
        self._shared = self._hashed = self._streamed = 0
        self._models: Counter[str] = Counter()
        self._gaps: list[float] = []
        self._lives: list[tuple[float, float]] = []
        self.rows: list[Row] = []

    def __repr__(self) -> str:
        return f"<_Planning {len(self.rows)} requests>"

    def take(self, past: Past) -> Past:
        """The request as it will be asked."""
        self._digest.update(msgspec.json.encode(msgspec.structs.replace(past, model=None)))
        gap = max(0.0, past.at - self._before) if self.rows else 0.0
        self._before = max(past.at, self._before)
        self._at += min(gap, self._wish.max_gap or gap)
        self._gaps.append(gap)
        self._lives.append((self._at, self._at + past.duration_ms / 1000))
        self.rows.append(_row(len(self.rows), past, self._at))
        self._share(past)
        model = self._wish.whom(past.model)
        self._models[model] += 1
        self._streamed += past.stream
        return msgspec.structs.replace(past, at=self._at / self._wish.speed, model=model or None)

    def _share(self, past: Past) -> None:
        """Count the tokens of blocks that are known."""
        blocks = hashes(past)
        self._hashed += bool(blocks)
        known = next((at for at, one in enumerate(blocks) if one not in self._seen), len(blocks))
        self._shared += known * past.block_tokens
        self._seen.update(blocks[known:])

    def planned(self, file: Path, source: str, timeout: float) -> Planned:
        rows, wish = self.rows, self._wish
        prompts, cached = sum(row.prompt_tokens for row in rows), sum(row.cached_tokens for row in rows)
        replay = Replay(
            requests=len(rows), seconds=round(self._at, 6), speed=wish.speed, max_gap=wish.max_gap, source=source,
            shared=round(self._shared / prompts, 6) if prompts else 0.0, models=tuple(sorted(filter(None, self._models))),
            digest=self._digest.hexdigest(),
        )  # fmt: skip
        workload = Workload(
            endpoint="completions", concurrency=_most_at_once(self._lives), requests=len(rows), replay=replay,
            prompt_tokens=max(1, prompts // len(rows)), warmup=0, timeout=timeout,
            output_tokens=max(1, sum(row.completion_tokens for row in rows) // len(rows)),
        )  # fmt: skip
        share = cached / prompts if prompts else 0.0
        summary = summarise(rows, (), max(end for _, end in self._lives), workload)
        then = Run(workload=workload, started=datetime.now(UTC), summary=summary, rows=tuple(rows))
        return Planned(workload, then, file, self._gaps, self._models, self._hashed, self._streamed, share)


async def replay(
    targets: Sequence[Target],
    planned: Planned,
    report: Report = lambda progress: None,
    *,
    tokenizers: Mapping[str, str] = {},
    keys: Sequence[str] = (),
    command: str = "",
    say: Callable[[str], None] = lambda message: None,
) -> Result:
    """Ask one target or two, one after the other, what was asked in the past. The first of the result's targets is the past.

    `tokenizers` are folders by model, for prompts of exact lengths. Raises BenchmarkError as `sweep` does. `say` hears what
    a server says of failed requests.
    """
    result = await asyncio.to_thread(new, "replay", command)
    past = PastFile(str(planned.file), dict(tokenizers))
    workload = salted(planned.workload)  # both targets get the same prompts
    result = msgspec.structs.replace(result, targets=(_recorded(planned),))
    steps = Steps(len(targets), report, result)
    for place, target in enumerate(targets, 1):
        async with driving(target, workload, keys[place - 1] if keys else "", past) as driver:
            result = msgspec.structs.replace(result, targets=(*result.targets, driver.info))
            steps.begin(workload, result)
            measured = await driver.measure(workload, steps.move)
            if place == 1:
                result = with_run(result, msgspec.structs.replace(planned.then, workload=workload))
            result = with_run(
                result, _judged(msgspec.structs.replace(measured.run, target=place), planned.then)
            )
            result = msgspec.structs.replace(result, ratios=_ratios(result.runs))
            steps.end(result)
            for message in measured.messages:
                say(message)
    return msgspec.structs.replace(result, complete=True)


def _judged(run: Run, then: Run) -> Run:
    """The run, with a warning where its prompts were not as long as those of the past."""
    fine = {row.number: row.prompt_tokens for row in run.rows if row.status == "success"}
    told = sum(fine.values())
    meant = sum(row.prompt_tokens for row in then.rows if row.number in fine)
    if abs(told - meant) <= CLOSE * meant:
        return run
    words = (
        f"Prompts had {told:,} tokens instead of {meant:,}: --tokenizer makes their lengths exact, "
        "with the folder of the model that is asked."
    )
    return msgspec.structs.replace(run, warnings=(*run.warnings, words))


def _ratios(runs: Sequence[Run]) -> tuple:
    """Of two targets, A over B; the past is neither."""
    return ratios([msgspec.structs.replace(run, target=run.target - 1) for run in runs if run.target])


def _recorded(planned: Planned) -> TargetInfo:
    replay = planned.workload.replay
    assert replay is not None
    return TargetInfo(name=RECORDED, kind="recorded", model=", ".join(replay.models), server=replay.source)


def _row(number: int, past: Past, at: float) -> Row:
    """A request as if it had been measured: its times are the server's own."""
    status = past.status if past.status in ("success", "cancelled") else "error"
    # Of an answer in one piece nobody sees the first token, so the replay cannot know it either.
    ttft = past.ttft_ms if past.stream else None
    after = past.completion_tokens - 1
    return Row(
        number=number, start=round(at * 1000, 3), status=status, error="" if status != "error" else past.status,
        ttft=ttft, tpot=round((past.duration_ms - ttft) / after, 3) if ttft is not None and after > 0 else None,
        e2e=past.duration_ms if status == "success" else None, prompt_tokens=past.prompt_tokens,
        cached_tokens=past.cached_tokens, completion_tokens=past.completion_tokens, tokens_counted_by="usage",
    )  # fmt: skip


def _most_at_once(lives: Sequence[tuple[float, float]]) -> int:
    """How many of those that live from one moment to another do so at a time, at most; at least one."""
    most = now = 0
    for _, step in sorted([(begin, 1) for begin, _ in lives] + [(end, -1) for _, end in lives]):
        now += step
        most = max(most, now)
    return max(1, most)
