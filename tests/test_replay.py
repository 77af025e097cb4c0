"""The past asked again: what a real server answered, replayed on an empty cache, and what a log tells of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.analytics import AuditFilter
from mlx_panel.audit.replay import page, past, pinned, stopped
from mlx_panel.audit.store import AuditStore
from mlx_panel.bench import BenchmarkError, Result, Run, Target, Wish, load_all, plan, replay
from mlx_panel.bench import page as markdown
from mlx_panel.bench.arguments import parser
from mlx_panel.bench.command import main
from mlx_panel.bench.mimic import hashes
from mlx_panel.bench.replay_arguments import filter as chosen
from mlx_panel.bench.replay_tables import histogram
from mlx_panel.bench.sources import opened
from mlx_panel.engine.block_hashes import BLOCK_TOKENS
from mlx_panel.errors import AuditError, AuditLocked, InvalidParameter
from mlx_panel.inquiry import Past
from mlx_panel.job import stored
from mlx_panel.record import AuditDetail, AuditRecord

from .models import tiny_model
from .server import Running, environment, running

SYSTEM = "canarysystem, you know nothing at all. " * 8
ASKED = "canaryquestion: what is the capital of France, and that of Italy? " * 2
ANSWER, SHORT = 40, 30
CHANCE = 2  # words after a common beginning that happen to be the same
START = datetime(2026, 11, 17, 8, tzinfo=UTC)


class Recorded(NamedTuple):
    """A server that has answered, and its past."""

    server: Running
    pasts: list[Past]
    file: Path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("recorded")
    tiny_model(folder / "models" / "tiny", context=2048)
    with running(folder) as server:
        server.client.post("/v1/admin/models/load/tiny").raise_for_status()
        converse(server)
        # What no replay is made of: another API, a refusal, and nothing that was computed.
        server.client.get("/v1/models")
        assert server.chat("nobody").status_code == 404
        lines = server.client.get("/v1/admin/audit-logs/replay", params={"model": "tiny"}).raise_for_status()
        assert lines.headers["content-type"].startswith("application/x-ndjson")
        file = folder / "tuesday.jsonl"
        file.write_bytes(lines.content)
        yield Recorded(server, [msgspec.json.decode(line, type=Past) for line in lines.iter_lines()], file)


def converse(server: Running) -> None:
    """Two conversations that begin alike, a raw prompt asked twice, and a caller who leaves."""
    sampling = {"max_tokens": ANSWER, "ignore_eos": True, "temperature": 0.5, "top_p": 0.9, "top_k": 20}
    for number in range(2):
        said = [{"role": "system", "content": SYSTEM}]
        for turn in range(2):
            said.append({"role": "user", "content": f"{number} {turn} {ASKED}"})
            body = {"model": "tiny", "messages": said, **sampling, "stream": bool(turn)}
            server.client.post("/v1/chat/completions", json=body).raise_for_status()
            # Not its own answer: what a cache knows of answers is not known to a replay.
            said.append({"role": "assistant", "content": "It is Paris."})
    raw = {"model": "tiny", "prompt": ASKED, "max_tokens": SHORT, "ignore_eos": True, "temperature": 0}
    for _ in range(2):
        server.client.post("/v1/completions", json=raw).raise_for_status()


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`mlx-benchmark replay` with a data folder of its own, in this process but for the load."""

    def run(folder: Path, *words: str, **settings: Any) -> Done:
        for name, value in environment(folder, **settings).items():
            if name.startswith(("MLX_SERVER_", "HF_")):
                monkeypatch.setenv(name, value)
        return Done(main(["replay", *words]), *capsys.readouterr())

    return run


Command = Callable[..., Done]


def again(recorded: Recorded, folder: Path, target: Target, **wish: Any) -> Result:
    """The past on a target, in this process but for the load."""
    planned = plan(recorded.pasts, Wish(**wish), folder / "past.jsonl")
    tokenizers = {"tiny": str(recorded.server.folder / "models" / "tiny")}
    return asyncio.run(replay([target], planned, tokenizers=tokenizers))


def known(pasts: list[Past]) -> list[int]:
    """The tokens of each prompt's whole blocks that a prompt before it began with too."""
    seen: set[str] = set()
    found = []
    for one in pasts:
        blocks = hashes(one)
        shared = next((at for at, block in enumerate(blocks) if block not in seen), len(blocks))
        # A prompt's last token is always computed.
        found.append(min(shared * BLOCK_TOKENS, one.prompt_tokens - 1))
        seen.update(blocks)
    return found


# --- a real past -------------------------------------------------------------------------------------------------


def test_the_past_has_lengths_moments_and_values_and_no_words(recorded: Recorded) -> None:
    pasts = recorded.pasts
    assert len(pasts) == 6
    assert [one.stream for one in pasts] == [False, True, False, True, False, False]
    assert [one.completion_tokens for one in pasts] == [ANSWER] * 4 + [SHORT] * 2
    assert [(one.temperature, one.top_p, one.top_k, one.max_tokens) for one in pasts[:4]] == [
        (0.5, 0.9, 20, ANSWER)
    ] * 4
    assert pasts[0].at == 0
    assert [one.at for one in pasts] == sorted(one.at for one in pasts)
    assert all(len(hashes(one)) == one.prompt_tokens // BLOCK_TOKENS for one in pasts)
    assert hashes(pasts[4]) == hashes(pasts[5])
    text = recorded.file.read_text(encoding="utf-8")
    key = (recorded.server.folder / "replay.key").read_bytes()
    for canary in ("canary", "capital", key.hex()):
        assert canary not in text
    assert key.hex() not in recorded.server.output()


def test_a_replay_shares_its_prefixes_as_the_past_did(
    recorded: Recorded, tmp_path: Path, command: Command
) -> None:
    """From a running server's log to an engine of its own that knows nothing yet, slowly, so that none waits for another."""
    port = recorded.server.url.rpartition(":")[2]
    done = command(
        recorded.server.folder, "--engine", "tiny", "--from-model", "tiny", "--speed", "0.25", "--folder", str(tmp_path),
        port=port,
    )  # fmt: skip
    assert done.status == 0, done.err
    (result,) = load_all(tmp_path).results
    assert (result.kind, result.complete, len(result.runs)) == ("replay", True, 2)
    then, now = result.runs
    assert (
        lengths(now)
        == lengths(then)
        == [(one.prompt_tokens, one.completion_tokens) for one in recorded.pasts]
    )
    for was, row, blocks in zip(then.rows, now.rows, known(recorded.pasts), strict=True):
        assert row.cached_tokens >= blocks
        assert abs(was.cached_tokens - row.cached_tokens) <= CHANCE
        assert 4 * was.start - 1 <= row.start < 4 * was.start + 2000
    assert now.workload.replay is not None
    assert now.workload.replay.shared == pytest.approx(
        sum(known_blocks(recorded.pasts)) / now.summary.prompt_tokens
    )
    for words in (
        "Then and now",
        "From the cache",
        "replay of 6 requests",
        "at 0.25×",
        "are in whole blocks",
    ):
        assert words in done.out
    assert "1 of 1" in done.err
    assert "canary" not in (tmp_path / f"{result.id}.json").read_text(encoding="utf-8")


def known_blocks(pasts: list[Past]) -> list[int]:
    return [-(-one // BLOCK_TOKENS) * BLOCK_TOKENS for one in known(pasts)]


def lengths(run: Run) -> list[tuple[int, int]]:
    return [(row.prompt_tokens, row.completion_tokens) for row in run.rows]


def test_another_cache_size_is_another_past(recorded: Recorded, tmp_path: Path) -> None:
    """How would it have run without a prefix cache? On the server itself, once emptied, over HTTP."""
    server = recorded.server
    target = Target(url=server.url, model="tiny")
    server.client.delete("/v1/admin/cache/tiny").raise_for_status()
    found = [again(recorded, tmp_path, target, speed=0.25)]
    server.client.put("/api/settings/engine", json={"prefix_cache_mb": 0}).raise_for_status()
    found.append(again(recorded, tmp_path, target, speed=2))
    server.client.put("/api/settings/engine", json={"prefix_cache_mb": None}).raise_for_status()
    with_cache, without = (result.runs[1] for result in found)
    assert lengths(with_cache) == lengths(without) == lengths(found[0].runs[0])
    for was, row in zip(recorded.pasts, with_cache.rows, strict=True):
        assert abs(was.cached_tokens - row.cached_tokens) <= CHANCE
    assert with_cache.summary.cached_tokens > 0.5 * with_cache.summary.prompt_tokens
    assert without.summary.cached_tokens == 0
    assert with_cache.ignore_eos == "taken"
    # One that was not streamed then is not streamed now: nobody sees its first token.
    assert [row.ttft is not None for row in with_cache.rows] == [one.stream for one in recorded.pasts]
    assert [row.finish_reason for row in with_cache.rows] == ["length"] * 6
    asked = server.client.get(
        "/v1/admin/audit-logs/replay", params={"endpoint": "/v1/completions"}
    ).text.splitlines()
    last = msgspec.json.decode(asked[-6], type=Past)
    assert (last.temperature, last.top_p, last.top_k, last.stream) == (0.5, 0.9, 20, False)


def test_hashes_are_a_setting(recorded: Recorded) -> None:
    client = recorded.server.client
    for wanted in (False, True):
        client.put("/api/settings/audit", json={"audit_block_hashes": wanted}).raise_for_status()
        since = datetime.now(UTC).isoformat()
        raw = {"model": "tiny", "prompt": ASKED * 2, "max_tokens": 2}
        client.post("/v1/completions", json=raw).raise_for_status()
        lines = client.get("/v1/admin/audit-logs/replay", params={"since": since}).text.splitlines()
        assert [bool(msgspec.json.decode(line, type=Past).blocks) for line in lines] == [wanted]


def test_the_route_refuses_what_it_does_not_know(recorded: Recorded) -> None:
    client, route = recorded.server.client, "/v1/admin/audit-logs/replay"
    assert client.get(route, params={"colour": "red"}).json()["error"]["param"] == "colour"
    assert client.get(route, params={"since": "tuesday"}).json()["error"]["param"] == "since"
    assert client.get(route, params={"model": "nobody"}).text == ""
    assert client.head(route).status_code == 200


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_an_export_has_the_same_past_without_its_prefixes(
    recorded: Recorded, tmp_path: Path, format: str
) -> None:
    given = {"format": format, "model": "tiny", "scope": "model"}
    reply = recorded.server.client.get("/v1/admin/audit-logs/export", params=given).raise_for_status()
    file = tmp_path / f"export.{format}"
    file.write_bytes(reply.content)
    with opened(str(file), AuditFilter(model=("tiny",))) as source:
        found = list(source.pasts)[: len(recorded.pasts)]
    bare = [msgspec.structs.replace(one, block_tokens=0, blocks="") for one in recorded.pasts]
    assert found == bare


def test_models_may_be_others_and_must_be_there(recorded: Recorded, tmp_path: Path, command: Command) -> None:
    source = ("--from", str(recorded.file), "--url", recorded.server.url, "--no-save", "--quiet")
    refused = command(tmp_path, *source, "--map", "tiny=nobody")
    assert refused.status == 1
    assert "refuses 'nobody'" in refused.err
    assert "--map" in refused.err
    mapped = command(tmp_path, *source, "--map", "tiny=plain", "--max-requests", "2", "--speed", "100")
    assert mapped.status == 0, mapped.err
    assert "plain" in mapped.out
    assert "Sent late" in mapped.out
    assert "--tokenizer makes their lengths exact" not in mapped.out  # a scripted model's tokens are words


def test_two_servers_are_asked_the_same(recorded: Recorded, tmp_path: Path, command: Command) -> None:
    url = recorded.server.url
    done = command(
        tmp_path, "--from", str(recorded.file), "--url", url, "--model", "plain", "--url-b", url, "--name-b", "other",
        "--max-requests", "3", "--speed", "100",
    )  # fmt: skip
    assert done.status == 0, done.err
    (result,) = load_all(tmp_path / "benchmarks").results
    assert [target.kind for target in result.targets] == ["recorded", "url", "url"]
    assert [run.target for run in result.runs] == [0, 1, 2]
    assert lengths(result.runs[1]) == lengths(result.runs[2])
    assert {ratio.metric for ratio in result.ratios} >= {"tokens/s", "E2E p50"}
    assert "A over B" in done.out
    line = stored(result)
    assert (line.kind, line.requests, line.failed) == ("replay", 6, 0)
    text = markdown([result])
    assert "| Figure | Then | A | B |" in text
    assert "From the cache" in text


def test_a_dry_run_says_what_would_be_sent(recorded: Recorded, tmp_path: Path, command: Command) -> None:
    said = command(tmp_path, "--from", str(recorded.file), "--dry-run", "--speed", "2", "--map", "tiny=new")
    assert said.status == 0, said.err
    for words in (
        "6 requests of tuesday.jsonl",
        "To: new (6)",
        "6 of 6 have hashes",
        "33% streamed",
        "prompt, tokens",
    ):
        assert words in said.out
    assert not (tmp_path / "benchmarks").exists()


# --- a log of one's own --------------------------------------------------------------------------------------------


def made(number: int, **more: Any) -> AuditRecord:
    values = {
        "request_id": f"r{number}", "timestamp": START + timedelta(minutes=number), "endpoint": "/v1/chat/completions",
        "dialect": "openai", "status": "success", "http_status": 200, "model_used": "a", "prompt_tokens": 100,
        "completion_tokens": 10, "cached_tokens": 5, "ttft_ms": 20.0, "duration_ms": 50.0, "stream": True,
    }  # fmt: skip
    return AuditRecord(**{**values, **more})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A stopped log: ten requests, written in another order than they came, and what is none of a replay's."""
    file = tmp_path / "audit.duckdb"
    store = AuditStore(file)
    store.start()
    for number in (3, 1, 0, 2, 9, 8, 7, 4, 6, 5):
        detail = AuditDetail(block_tokens=32, blocks=bytes([number]) * 24) if number % 2 else None
        store.put(made(number, model_used="a" if number < 8 else "b"), detail)
    store.put(made(20, endpoint="/v1/embeddings", completion_tokens=0))
    store.put(made(21, dialect="management", endpoint="/api/system", prompt_tokens=0))
    store.put(made(22, status="rejected", http_status=400, completion_tokens=0))
    store.close()
    return file


def test_a_stopped_log_is_read_in_the_order_of_arrival(log: Path) -> None:
    with stopped(log) as cursor:
        found = list(past(cursor, AuditFilter()))
        assert [one.at for one in found] == [60.0 * number for number in range(10)]
        assert [bool(one.blocks) for one in found] == [number % 2 == 1 for number in range(10)]
        assert (found[3].blocks, found[3].block_tokens) == ("03" * 24, 32)
        assert found[0] == Past(
            0.0, "a", 100, 10, stream=True, ttft_ms=20.0, duration_ms=50.0, status="success", cached_tokens=5
        )
        assert [one.at for one in past(cursor, AuditFilter(model=("b",)))] == [0.0, 60.0]
        later = AuditFilter(since=START + timedelta(minutes=7), until=START + timedelta(minutes=9))
        assert [one.at for one in past(cursor, later)] == [0.0, 60.0]
        assert list(past(cursor, AuditFilter(model=("nobody",)))) == []


@pytest.mark.parametrize("limit", [1, 3, 10, 100])
def test_pages_of_any_size_neither_repeat_nor_skip(log: Path, limit: int) -> None:
    with stopped(log) as cursor:
        found: list[Past] = []
        mark = None
        for _ in range(50):
            some, mark = page(cursor, pinned(AuditFilter()), mark, limit=limit)
            assert len(some) <= limit
            found += some
            if mark is None:
                break
        assert found == list(past(cursor, AuditFilter()))


def test_a_file_says_what_is_wrong_with_it(log: Path, tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "old.duckdb")) as old:
        old.execute(
            "CREATE TABLE audit AS SELECT 1 AS id, now()::TIMESTAMP AS \"timestamp\", 'openai' AS dialect"
        )
    with stopped(tmp_path / "old.duckdb") as cursor, pytest.raises(AuditError, match="older version"):
        list(past(cursor, AuditFilter()))
    (tmp_path / "no.duckdb").write_text("nothing", encoding="utf-8")
    with pytest.raises(AuditError, match="cannot be opened"), stopped(tmp_path / "no.duckdb"):
        pass
    code = f"import duckdb, time; c = duckdb.connect({str(log)!r}); print('open', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(AuditLocked), stopped(log):
            pass
        holder.kill()


def test_exports_can_be_replayed_without_their_prefixes(log: Path, tmp_path: Path) -> None:
    with stopped(log) as cursor:
        whole = list(past(cursor, AuditFilter()))
        for name in ("some.parquet", "some.csv"):
            cursor.execute(f"COPY audit TO '{tmp_path / name}'")
    for place in (log, tmp_path / "some.parquet", tmp_path / "some.csv"):
        with opened(str(place), AuditFilter(model=("a",))) as source:
            found = list(source.pasts)
        assert [one.at for one in found] == [one.at for one in whole[:8]]
        assert any(one.blocks for one in found) == (place == log)
        assert (found[0].temperature, found[0].stream, found[0].ttft_ms) == (None, True, 20.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "nothing.jsonl"), "There is no file nothing.jsonl"),
        (("--source-url", "http://127.0.0.1:1"), "No answer from http://127.0.0.1:1"),
        ((), "There is no audit log in"),
        (("--status", "fine"), "status is one of"),
        (("--since", "tuesday"), "since is a moment"),
        (("--map", "old"), "--map takes OLD=NEW"),
        (("--max-gap", "-1"), "0 or more"),
        (("--engine", "nobody"), "no model of this name"),
    ],
)
def test_what_cannot_be_replayed_is_said_in_a_line(
    tmp_path: Path, command: Command, words: tuple[str, ...], said: str
) -> None:
    done = command(tmp_path, *words)
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert said in done.err


def test_a_replay_file_is_chosen_from_where_it_is_made(tmp_path: Path) -> None:
    file = tmp_path / "past.jsonl"
    file.write_bytes(msgspec.json.encode(Past(0.0, "a", 1, 1)) + b"\n{}\n")
    with (
        pytest.raises(BenchmarkError, match="holds what was chosen"),
        opened(str(file), AuditFilter(status=("error",))),
    ):
        pass
    with opened(str(file), AuditFilter()) as source, pytest.raises(BenchmarkError, match="line 2"):
        plan(source.pasts, Wish(), tmp_path / "planned.jsonl")
    with pytest.raises(BenchmarkError, match="nothing to replay"):
        plan([], Wish(), tmp_path / "planned.jsonl")


# --- decisions -----------------------------------------------------------------------------------------------------


@settings(deadline=None)  # it writes a file each time
@given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=20),
    st.floats(0.1, 100),
    st.floats(0, 50),
    st.integers(0, 25),
)
def test_gaps_are_those_of_the_past_over_the_speed(
    gaps: list[float], speed: float, most: float, count: int
) -> None:
    at = [sum(gaps[1 : place + 1]) for place in range(len(gaps))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "past.jsonl"
        planned = plan(
            (Past(one, "m", 10, 5) for one in at), Wish(speed=speed, max_gap=most, most=count), file
        )
        due = [msgspec.json.decode(line, type=Past).at for line in file.read_bytes().splitlines()]
    assert len(due) == min(len(at), count or len(at))
    for place in range(1, len(due)):
        gap = at[place] - at[place - 1]
        assert (due[place] - due[place - 1]) * speed == pytest.approx(
            min(gap, most) if most else gap, abs=1e-6
        )
    assert planned.workload.replay is not None
    assert planned.workload.replay.seconds == pytest.approx(due[-1] * speed, abs=1e-3)


def test_the_same_past_is_comparable_whoever_answers(tmp_path: Path) -> None:
    pasts = [Past(float(at), "old", 10 + at, 5) for at in range(3)]
    one, other = (plan(pasts, Wish(model=model), tmp_path / "p.jsonl").workload for model in ("x", "y"))
    assert one.same_as(other)
    assert not one.same_as(plan(pasts, Wish(speed=2), tmp_path / "p.jsonl").workload)
    assert not one.same_as(plan(pasts[:2], Wish(), tmp_path / "p.jsonl").workload)
    assert not one.same_as(msgspec.structs.replace(one, replay=None))


def test_what_ran_at_once_and_who_left_is_kept(tmp_path: Path) -> None:
    pasts = [
        Past(0.0, "m", 10, 5, stream=True, duration_ms=3000, ttft_ms=1000),
        Past(1.0, "m", 10, 5, stream=True, duration_ms=3000, status="cancelled", max_tokens=50),
        Past(2.0, "m", 10, 0, duration_ms=500, status="timeout", ttft_ms=100),
        Past(9.0, None, 10, 5, duration_ms=500),
    ]
    planned = plan(pasts, Wish(), tmp_path / "p.jsonl")
    assert planned.workload.concurrency == 3
    rows = planned.then.rows
    assert [row.status for row in rows] == ["success", "cancelled", "error", "success"]
    assert (rows[0].tpot, rows[0].e2e, rows[1].e2e) == (500.0, 3000, None)
    assert (rows[2].ttft, rows[2].error) == (None, "timeout")
    assert planned.models == {"m": 3, "": 1}
    assert planned.then.summary.seconds == 9.5


def test_a_filter_is_read_from_the_command_line() -> None:
    words = [
        "replay",
        "--from-model",
        "a",
        "--from-model",
        "b",
        "--status",
        "success",
        "--since",
        "2026-11-17",
    ]
    found = chosen(parser().parse_args(words))
    assert found == AuditFilter(
        model=("a", "b"), status=("success",), since=datetime(2026, 11, 17, tzinfo=UTC)
    )
    with pytest.raises(InvalidParameter):
        chosen(parser().parse_args(["replay", "--range", "2d"]))


def test_a_histogram_holds_every_value_once() -> None:
    lines = histogram([0, 1, 5, 10, 99], (1, 10))
    assert [line.split()[-1] for line in lines] == ["1", "2", "2"]
    assert lines[0].lstrip().startswith("< 1")
