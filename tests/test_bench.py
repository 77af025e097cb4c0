"""The benchmark library: parsers, percentiles, prompts, files, ratios, and real load on servers and engines."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mlx_panel.bench import (
    BenchmarkError,
    Plan,
    Progress,
    Result,
    Row,
    Run,
    Spread,
    Summary,
    Target,
    TargetInfo,
    Workload,
    compare,
    compare_results,
    load,
    load_all,
    matrix,
    page,
    save,
    standard,
    sweep,
    write_parquet,
)
from mlx_panel.bench.compare import interval, turns
from mlx_panel.bench.events import EventParser
from mlx_panel.bench.figures import percentile, spread
from mlx_panel.bench.http1 import Cut, NotHttp, Response, shown
from mlx_panel.bench.identity import fingerprint
from mlx_panel.bench.prompts import Prompts, asks, warmups
from mlx_panel.bench.report import BEGIN, END
from mlx_panel.bench.results import COLUMNS, new
from mlx_panel.bench.trace import Trace

from .awkward import USAGE, WORDS, awkward
from .models import tiny_model
from .server import Running, scripted

# --- parsers ---------------------------------------------------------------------------------------------------

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.one_of(
    st.just(b""),
    st.binary(max_size=12).map(lambda raw: b"data: " + raw.replace(b"\n", b"").replace(b"\r", b"")),
    st.sampled_from([b"data:x", b"data", b"data:  two", b": comment", b"event: error", b"id", b"other: y"]),
)


def events_of(lines: list[bytes]) -> list[bytes]:
    """The standard's own words, line by line: what the parser has to find."""
    found, data = [], []
    for line in lines:
        if not line:
            found += [b"\n".join(data)] if data else []
            data = []
        elif line.partition(b":")[0] == b"data":
            data.append(line.partition(b":")[2].removeprefix(b" "))
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.tuples(LINES, LINE_ENDS)), st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_events_do_not_depend_on_where_the_bytes_are_cut(
    lines: list[tuple[bytes, bytes]], places: list[int], mark: bool
) -> None:
    # A lone CR before an LF of the next line would be one line end, not two.
    ends = [b"\r\n" if end == b"\r" else end for _, end in lines]
    data = b"".join(line + end for (line, _), end in zip(lines, ends, strict=True))
    parser = EventParser()
    given_bytes = (b"\xef\xbb\xbf" if mark else b"") + data
    found = [event for piece in cut(given_bytes, places) for event in parser.feed(piece)]
    assert found == events_of([line for line, _ in lines])


def test_events_with_lone_carriage_returns() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\r\rdata: b\r") == [b"a"]
    assert parser.feed(b"\rdata: c\r\r") == [b"b", b"c"]


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from(["chunked", "length", "end"]),
)
def test_bodies_do_not_depend_on_where_the_bytes_are_cut(
    parts: list[bytes], places: list[int], kind: str
) -> None:
    body = b"".join(parts)
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Name: a:b\r\n"
    if kind == "chunked":
        chunks = b"".join(b"%X;e=1\r\n%s\r\n" % (len(part), part) for part in parts if part)
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nT: x\r\n\r\n"
    else:
        size = b"Content-Length: %d\r\n" % len(body) if kind == "length" else b""
        data = head + size + b"\r\n" + body
    response = Response()
    found = b"".join(piece for part in cut(data, places) for piece in response.feed(part))
    assert (found, response.status, response.headers["x-name"]) == (body, 200, "a:b")
    assert response.complete == (kind != "end")
    if kind == "end":
        response.end()
        assert not response.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    ],
)
def test_what_is_not_http_is_said_so(data: bytes) -> None:
    with pytest.raises(NotHttp):
        Response().feed(data)


def test_an_answer_that_ends_early_is_cut() -> None:
    response = Response()
    response.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    with pytest.raises(Cut):
        response.end()


# --- figures -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99])
)
def test_percentiles_are_those_of_numpy(values: list[float], part: float) -> None:
    assert percentile(sorted(values), part) == pytest.approx(np.percentile(values, part * 100), abs=1e-6)


def test_what_was_not_measured_has_no_spread() -> None:
    assert spread([None, None]) == Spread()
    assert spread([None, 2.0, 4.0]) == Spread(n=2, mean=3.0, p50=3.0, p95=3.9, p99=3.98, max=4.0)


def test_pieces_that_arrive_together_are_one_arrival() -> None:
    trace = Trace(0, sent=1.0)
    for now in (1.5, 1.5, 2.0, 2.5, 2.5):
        trace.hear(now)
    trace.completion_tokens, trace.ended = 9, 2.6
    row = trace.row(began=0.5)
    assert trace.gaps() == [500.0, 500.0]
    assert (row.start, row.ttft, row.tpot, row.e2e) == (500.0, 500.0, 125.0, 1600.0)
    assert (row.chunks, row.arrivals, row.completion_tokens) == (5, 3, 9)


# --- workloads and prompts ---------------------------------------------------------------------------------------


def test_prompts_have_the_length_asked_for_and_share_what_they_should(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model(tmp_path) / "tokenizer.json"))
    for tokens in (1, 40, 300):
        prompts = Prompts(Workload(prompt_tokens=tokens, salt="a"), tokenizer)
        assert {len(tokenizer.encode(prompts(number)).ids) for number in range(5)} == {tokens}
    half = Prompts(Workload(prompt_tokens=40, shared_prefix=0.5, salt="a"))
    first, second = half(0).split(), half(1).split()
    assert len(first) == 40
    assert first[:20] == second[:20]
    assert first[20:] != second[20:]


def test_prompts_are_new_in_every_run_and_the_same_for_both_sides() -> None:
    one, again, other = (Prompts(Workload(salt=salt)) for salt in ("a", "a", "b"))
    assert one(0) == again(0)
    assert len({one(0), one(1), one(0, "warm-up"), other(0)}) == 4
    sides: dict[tuple[int, int], list[str]] = {}
    order = []
    for round, workload, place in turns((Workload(), Workload(concurrency=2)), 2):
        sides.setdefault((round, workload.concurrency), []).append(Prompts(workload)(0))
        order.append(place)
    assert all(len(set(prompts)) == 1 for prompts in sides.values())
    assert len({prompts[0] for prompts in sides.values()}) == 4
    assert order == [0, 1, 0, 1, 1, 0, 1, 0]


def test_arrivals_and_cancels_follow_the_seed() -> None:
    workload = Workload(rate=100.0, cancel=0.25, requests=400)
    first, again = list(asks(workload)), list(asks(workload))
    assert first == again
    assert 60 < sum(ask.leave_after == 8 for ask in first) < 140
    assert 2.0 < first[-1].due < 8.0
    assert first[0].due < first[1].due
    assert len(warmups(workload)) == 2


def test_a_matrix_is_every_combination_and_is_checked() -> None:
    found = matrix(Workload(), prompt_tokens=(16, 32), concurrency=(1, 2))
    assert [(one.prompt_tokens, one.concurrency) for one in found] == [(16, 1), (16, 2), (32, 1), (32, 2)]
    with pytest.raises(BenchmarkError, match="concurrency"):
        matrix(Workload(), concurrency=(0,))
    labels = [one.label for one in standard()]
    assert len(set(labels)) == len(labels) == 15
    assert [one.total for one in matrix(Workload(), concurrency=(1, 64))] == [8, 128]


# --- load on a server that is awkward ----------------------------------------------------------------------------


async def one_run(url: str, model: str, **fields: Any) -> Run:
    workload = Workload(**{"concurrency": 2, "requests": 4, "warmup": 0, "output_tokens": 5, **fields})
    result = await sweep(Plan(target=Target(url=url, model=model), workloads=(workload,)))
    assert result.complete
    return result.runs[0]


@pytest.mark.parametrize("model", ["split", "crlf", "coalesced", "http10", "old"])
async def test_every_way_to_send_a_stream_is_counted_alike(model: str) -> None:
    async with awkward() as server:
        run = await one_run(server.url, model)
    summary = run.summary
    assert (summary.succeeded, summary.failed, summary.completion_tokens) == (4, 0, 4 * len(WORDS))
    assert all(row.chunks == len(WORDS) for row in run.rows)
    if model == "old":
        assert (summary.tokens_counted_by, run.ignore_eos) == ("chunks", "refused")
        assert any("usage" in warning for warning in run.warnings)
    else:
        assert (summary.tokens_counted_by, run.ignore_eos) == ("usage", "taken")
        assert summary.cached_tokens == 4 * USAGE["prompt_tokens_details"]["cached_tokens"]
    if model == "coalesced":
        assert summary.itl.n == 0
        assert summary.ttft.n == 4
    if model == "split":
        assert all(row.arrivals > 1 for row in run.rows)


async def test_connections_are_used_again() -> None:
    async with awkward() as server:
        await one_run(server.url, "split", requests=20)
        assert server.connections <= 3
        asked = server.bodies[-1]
    assert (asked["max_tokens"], asked["temperature"], asked["stream"]) == (5, 0.0, True)
    assert "top_p" not in asked


@pytest.mark.parametrize(
    ("model", "error", "status"),
    [
        ("busy", "http_429_rate_limit_x", 429),
        ("parrot", "http_400", 400),
        ("problem", "http_503_draining", 503),
        ("whole", "not_a_stream", 200),
        ("midway", "worker_died", 200),
        ("cut", "connection_lost", 200),
        ("unfinished", "stream_cut", 200),
        ("hangs", "timeout", 0),
    ],
)
async def test_every_way_to_fail_has_its_code(model: str, error: str, status: int) -> None:
    said: list[str] = []
    workload = Workload(concurrency=2, requests=3, warmup=0, output_tokens=5, timeout=0.5)
    async with awkward() as server:
        plan = Plan(target=Target(url=server.url, model=model), workloads=(workload,))
        result = await sweep(plan, say=said.append)
    run = result.runs[0]
    assert run.summary.errors == {error: 3}
    assert {row.http_status for row in run.rows} == {status}
    assert run.summary.failed == 3
    assert "requests failed" in run.warnings[0]
    # What a server says is for a person, and not when it quotes the prompt, as `parrot` and `midway` do.
    words = {"busy": ["Too many requests."], "problem": ["The server is shutting down."]}
    assert [message for message in said if "stream" not in message and "connection" not in message] == (
        words.get(model, [])
    )


async def test_what_cannot_be_measured_is_said_in_a_line() -> None:
    async with awkward() as server:
        with pytest.raises(BenchmarkError, match=r"There are: split, busy\."):
            await sweep(Plan(target=Target(url=server.url), workloads=(Workload(),)))
        url = server.url
    with pytest.raises(BenchmarkError, match=f"No answer from {url}/v1"):
        await sweep(Plan(target=Target(url=url, model="split"), workloads=(Workload(),)))
    with pytest.raises(BenchmarkError, match="URL"):
        await sweep(Plan(target=Target(url="ftp://x", model="split"), workloads=(Workload(),)))


# --- load on a real server and on engines ------------------------------------------------------------------------


def ordered(spread: Spread) -> bool:
    return 0 < spread.p50 <= spread.p95 <= spread.p99 <= spread.max


async def test_a_sweep_of_a_server_keeps_the_loop_free_and_tells_how_far_it_is(serving: Running) -> None:
    heard: list[Progress] = []
    workloads = matrix(Workload(output_tokens=5, requests=12, warmup=1), concurrency=(1, 6))
    plan = Plan(target=Target(url=serving.url, model="slow"), workloads=workloads)
    with blockbuster_ctx(scanned_modules=["mlx_panel"]):
        result = await sweep(plan, heard.append)
    assert [progress.fraction for progress in heard] == sorted(progress.fraction for progress in heard)
    assert (heard[0].fraction, heard[-1].fraction) == (0.0, 1.0)
    assert heard[-1].result.runs == result.runs
    for run in result.runs:
        summary = run.summary
        assert (summary.succeeded, summary.completion_tokens, summary.tokens_counted_by) == (12, 60, "usage")
        assert all(map(ordered, (summary.ttft, summary.itl, summary.tpot, summary.e2e)))
        assert summary.prompt_tokens == 12 * 128
        assert summary.tokens_per_second == pytest.approx(60 / summary.seconds, rel=0.01)
        # A step takes 20 ms, so five tokens cannot come faster than four steps.
        assert min(row.e2e for row in run.rows) > 80
        assert all(row.ttft < row.e2e for row in run.rows)
    assert result.runs[0].summary.seconds > result.runs[1].summary.seconds
    assert result.runs[0].ignore_eos == "taken"
    assert result.targets[0].server.startswith("mlx-panel/")
    assert "mlx" in result.targets[0].versions


async def test_callers_who_leave_are_cancelled_on_the_server(serving: Running) -> None:
    run = await one_run(serving.url, "slow", requests=6, cancel=1.0, cancel_after=3, output_tokens=400)
    assert (run.summary.cancelled, run.summary.failed) == (6, 0)
    assert all(3 <= row.completion_tokens < 400 for row in run.rows)
    assert run.summary.e2e == Spread()
    while serving.client.get("/health").json()["requests"]:
        await asyncio.sleep(0.05)
    page_ = serving.client.get("/v1/admin/audit-logs", params={"model": "slow", "limit": 6}).json()
    assert [row["status"] for row in page_["rows"]] == ["cancelled"] * 6


async def test_arrivals_do_not_wait_for_answers(serving: Running) -> None:
    run = await one_run(serving.url, "slow", concurrency=1, rate=50.0, requests=10, output_tokens=20)
    assert run.summary.succeeded == 10
    # An answer takes 400 ms at least; ten of them one after the other would take 4 s.
    starts = [row.start for row in run.rows]
    assert starts == sorted(starts)
    assert starts[-1] < run.rows[0].start + run.rows[0].e2e + 1000
    assert run.summary.seconds < 10 * 0.4


async def test_a_run_can_last_a_time_instead(serving: Running) -> None:
    run = await one_run(serving.url, "plain", requests=0, duration=0.3)
    assert run.summary.succeeded > 2
    assert max(row.start for row in run.rows) < 1000


async def test_failures_of_a_server_are_counted_by_their_code(serving: Running) -> None:
    run = await one_run(serving.url, "failing", output_tokens=9)
    assert run.summary.errors == {"generation_failed": 4}
    with pytest.raises(BenchmarkError, match=r"404_model_not_found.*There is no model"):
        await one_run(serving.url, "nobody")


async def test_a_cancelled_sweep_ends_its_process_and_leaves_what_is_done(serving: Running) -> None:
    heard: list[Progress] = []
    slow = Workload(output_tokens=400, requests=8, concurrency=1, warmup=0)
    plan = Plan(
        target=Target(url=serving.url, model="slow"), workloads=(Workload(output_tokens=2, requests=2), slow)
    )
    task = asyncio.create_task(sweep(plan, heard.append))
    while not (task.done() or (heard and heard[-1].step == 1 and heard[-1].tokens_per_second)):
        await asyncio.sleep(0.02)
    children = [child for child in psutil.Process().children() if "url_process" in " ".join(child.cmdline())]
    assert len(children) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not children[0].is_running()
    assert len(heard[-1].result.runs) == 1
    assert not heard[-1].result.complete


async def test_a_load_process_that_dies_is_told(serving: Running) -> None:
    heard: list[Progress] = []
    slow = Workload(output_tokens=400, requests=8, concurrency=1, warmup=0)
    task = asyncio.create_task(
        sweep(Plan(target=Target(url=serving.url, model="slow"), workloads=(slow,)), heard.append)
    )
    while not (task.done() or (heard and heard[-1].tokens_per_second)):
        await asyncio.sleep(0.02)
    next(child for child in psutil.Process().children() if "url_process" in " ".join(child.cmdline())).kill()
    with pytest.raises(BenchmarkError, match="The load process ended"):
        await task


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_an_engine_is_measured_without_a_server(tmp_path: Path, endpoint: Any) -> None:
    folder = tiny_model(tmp_path / "tiny")
    workload = Workload(
        endpoint=endpoint, concurrency=3, requests=6, prompt_tokens=30, output_tokens=7, temperature=0.7
    )
    result = await sweep(Plan(target=Target(engine=str(folder)), workloads=(workload,)))
    run, target = result.runs[0], result.targets[0]
    assert (run.summary.succeeded, run.summary.failed) == (6, 0)
    assert 0 < run.summary.completion_tokens <= 42
    assert run.summary.tokens_counted_by == "usage"
    assert ordered(run.summary.ttft)
    # The folder's tokenizer made the prompts: only the chat template comes on top.
    lengths = {row.prompt_tokens for row in run.rows}
    assert lengths == {30} if endpoint == "completions" else (len(lengths) == 1 and lengths.pop() > 30)
    assert (target.kind, target.model, target.architecture) == ("engine", "tiny", "llama")
    assert target.model_hash == fingerprint(str(folder)).hash != ""
    assert "mlx" in target.versions


async def test_an_engine_cancels_fails_and_keeps_time(tmp_path: Path) -> None:
    scripted(tmp_path, "slow", text="a b c d e f", repeat=50, step_seconds=0.01)
    scripted(tmp_path, "bad", text="a b c d", fail_after=2)
    scripted(tmp_path, "mute", text="a b c d", stall_after=2)
    wanted = {
        "slow": (Workload(concurrency=2, cancel=1.0, cancel_after=3, warmup=0), {}, 8),
        "bad": (Workload(concurrency=2, warmup=0), {"generation_failed": 8}, 0),
        "mute": (Workload(concurrency=8, requests=8, warmup=0, timeout=0.2), {"timeout": 8}, 0),
    }
    for name, (workload, errors, cancelled) in wanted.items():
        target = Target(engine=str(tmp_path / "models" / name))
        run = (await sweep(Plan(target=target, workloads=(workload,)))).runs[0]
        assert (run.summary.errors, run.summary.cancelled) == (errors, cancelled), name
    with pytest.raises(BenchmarkError, match="cannot be loaded"):
        await sweep(Plan(target=Target(engine=str(tmp_path / "nothing")), workloads=(Workload(),)))


async def test_two_targets_are_measured_in_turns(serving: Running, tmp_path: Path) -> None:
    scripted(tmp_path, "quick", text="a b c d e f", repeat=50, step_seconds=0.002)
    workload = Workload(concurrency=2, requests=2, output_tokens=10, warmup=0)
    result = await compare(
        Target(engine=str(tmp_path / "models" / "quick")),
        Target(url=serving.url, model="slow"),
        [workload],
        rounds=2,
    )
    assert [(run.round, run.target) for run in result.runs] == [(0, 0), (0, 1), (1, 1), (1, 0)]
    speed = next(ratio for ratio in result.ratios if ratio.metric == "tokens/s")
    # Steps of 2 ms against steps of 20 ms.
    assert speed.median > 2
    assert (speed.rounds, speed.sure_low) == (2, None)
    assert speed.low <= speed.median <= speed.high


# --- files -------------------------------------------------------------------------------------------------------


def made(kind: Any = "sweep", speeds: tuple[float, ...] = (10.0,), target: int = 0, **fields: Any) -> Result:
    """A result as if it had been measured."""
    rows = (
        Row(number=0, start=0.5, status="success", http_status=200, ttft=4.25, e2e=9.0, completion_tokens=3),
        Row(number=1, start=0.75, status="error", error="timeout"),
    )
    runs = tuple(
        Run(
            workload=Workload(salt=f"{place}", **fields), started=datetime.now(UTC), rows=rows, target=target, round=place,
            summary=Summary(succeeded=1, failed=1, tokens_per_second=speed, ttft=Spread(n=1, p50=100 / speed)),
            warnings=("1 of 2 requests failed: 1 timeout.",),
        )
        for place, speed in enumerate(speeds)
    )  # fmt: skip
    info = TargetInfo(name="mine", kind="url", url="http://x/v1", model="tiny", model_hash="0123abcd")
    result = new(kind, "mlx-benchmark sweep --url http://x/v1")
    return Result(
        **{name: getattr(result, name) for name in ("id", "kind", "created", "command", "machine", "versions")},
        targets=(info,) * (target + 1), runs=runs, complete=True,
    )  # fmt: skip


def test_results_come_back_as_they_were_and_foreign_files_are_named(tmp_path: Path) -> None:
    first, second = made(), made(speeds=(1.0, 2.0))
    assert load(save(first, tmp_path / "kept")) == first
    save(second, tmp_path / "kept")
    strangers = {
        "broken.json": "{", "other.json": '{"hello": 1}', "binary.json": "\udcff", "list.json": "[]", "deep.json": "[" * 100_000,
        "future.json": json.dumps(json.loads((tmp_path / "kept" / f"{first.id}.json").read_text()) | {"format": 99}),
        "targetless.json": json.dumps(json.loads((tmp_path / "kept" / f"{first.id}.json").read_text()) | {"targets": []}),
    }  # fmt: skip
    for name, text in strangers.items():
        (tmp_path / "kept" / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    (tmp_path / "kept" / "folder.json").mkdir()
    found = load_all(tmp_path / "kept")
    assert [result.id for result in found.results] == [second.id, first.id]
    assert len(found.skipped) == len(strangers) + 1
    assert all(any(name in line for line in found.skipped) for name in strangers)
    assert load_all(tmp_path / "nothing") == ([], [])


def test_parquet_has_a_row_a_request(tmp_path: Path) -> None:
    result = made(speeds=(1.0, 2.0), concurrency=4)
    file = tmp_path / "it's.parquet"
    assert write_parquet([result], file) == 4
    quoted = str(file).replace("'", "''")
    with duckdb.connect() as database:
        rows = database.execute(f"SELECT * FROM '{quoted}' ORDER BY run, number").fetchall()
        names = [column[0] for column in database.description]
    assert names == list(COLUMNS)
    first = dict(zip(names, rows[0], strict=True))
    assert (first["result"], first["concurrency"], first["ttft"], first["model_hash"]) == (
        result.id, 4, 4.25, "0123abcd",
    )  # fmt: skip
    assert first["created"] == result.created.replace(tzinfo=None)
    assert dict(zip(names, rows[3], strict=True))["error"] == "timeout"
    assert dict(zip(names, rows[3], strict=True))["ttft"] is None


def test_ratios_are_those_of_like_workloads_round_by_round() -> None:
    a, b = made(speeds=(20.0, 30.0, 44.0, 10.0, 30.0)), made(speeds=(10.0, 10.0, 11.0, 10.0, 10.0))
    found = {ratio.metric: ratio for ratio in compare_results(a, b)}
    speed, first = found["tokens/s"], found["TTFT p50"]
    assert (speed.median, speed.low, speed.high, speed.rounds) == (3.0, 1.0, 4.0, 5)
    assert (speed.a, speed.b, speed.better) == (30.0, 10.0, "higher")
    assert speed.low <= speed.sure_low <= speed.median <= speed.sure_high <= speed.high
    assert (first.median, first.low, first.high, first.better) == (0.3333, 0.25, 1.0, "lower")
    assert "ITL p50" not in found
    assert compare_results(a, made(concurrency=2)) == ()
    assert interval([1.0, 1.0, 1.0]) == (1.0, 1.0)


def test_the_page_says_how_each_figure_came_and_keeps_what_a_person_wrote(tmp_path: Path) -> None:
    result = made(speeds=(12.5,))
    first = page([result])
    assert "mlx-benchmark sweep --url http://x/v1" in first
    assert "0123abcd" in first
    assert "| 1 × 128→64 greedy | 0 | 1 | 12.5 | – |" in first
    assert "1 of 2 requests failed" in first
    edited = first.replace(BEGIN, f"My words.\n\n{BEGIN}").replace(END, f"{END}\nMore of them.")
    second = page([made(speeds=(99.0,))], edited)
    assert "My words." in second
    assert second.rstrip().endswith("More of them.")
    assert "99.0" in second
    assert "12.5" not in second
    assert page([made(speeds=(99.0,))], second).count(BEGIN) == 1
    with pytest.raises(BenchmarkError, match="not made by"):
        page([result], "# Somebody's page\n")


def test_urls_are_shown_without_users_and_keys() -> None:
    assert shown("https://me:secret@host:8/v1?key=secret#x") == "https://host:8/v1"


def test_a_model_is_known_by_its_form(tmp_path: Path) -> None:
    one, same = tiny_model(tmp_path / "a", seed=1), tiny_model(tmp_path / "b", seed=2)
    wider = tiny_model(tmp_path / "c", hidden=128)
    prints = [fingerprint(str(folder)) for folder in (one, same, wider, tmp_path)]
    assert prints[0] == prints[1] != prints[2]
    assert prints[0].architecture == "llama"
    assert prints[3] == ("", "", "")
