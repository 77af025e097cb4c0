"""`mlx-benchmark` as a process: exit status, files, progress, Ctrl-C, and that keys and texts are kept nowhere."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from mlx_panel.bench import Result, load, load_all
from mlx_panel.bench.arguments import parser, redacted

from .models import tiny_model
from .server import WORDS, Running, environment, free_port, scripted
from .test_bench import made

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
SMALL = ("--requests", "2", "--output-tokens", "4", "--warmup", "0")


def bench(folder: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with a data folder of its own."""
    command = [sys.executable, "-m", "mlx_panel.bench.command", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment(folder) | more, check=False
    )


def kept(folder: Path) -> list[Result]:
    found = load_all(folder / "benchmarks")
    assert found.skipped == []
    return found.results


def test_a_run_is_shown_kept_and_written(serving: Running, tmp_path: Path) -> None:
    files = ("--json", str(tmp_path / "r.json"), "--parquet", str(tmp_path / "r.parquet"))
    done = bench(
        tmp_path, "run", "--url", serving.url, "--model", "plain", *SMALL, *files, "--api-key", "canary-key"
    )
    assert done.returncode == 0, done.stderr
    assert "1 × 128→4 greedy" in done.stdout
    assert "1 of 1:" in done.stderr
    (result,) = kept(tmp_path)
    assert load(tmp_path / "r.json") == result
    assert (result.kind, result.complete) == ("run", True)
    assert result.command.startswith("mlx-benchmark run --url http://127.0.0.1")
    assert result.machine.cores > 0
    with duckdb.connect() as database:
        rows = database.execute(
            f"SELECT count(*), sum(completion_tokens) FROM '{tmp_path}/r.parquet'"
        ).fetchone()
    assert rows == (2, 8)


def test_nothing_kept_or_shown_holds_a_key_or_a_text(serving: Running, tmp_path: Path) -> None:
    url = serving.url.replace("http://", "http://user:canary-password@")
    done = bench(
        tmp_path, "sweep", "--url", url, "--model", "plain", "-c", "1,2", *SMALL, "--api-key=canary-key",
        MLX_BENCHMARK_API_KEY="canary-variable",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "benchmarks").iterdir()
    assert len(kept(tmp_path)[0].runs) == 2
    everything = file.read_text() + done.stdout + done.stderr
    for canary in ("canary", WORDS.split()[1], "messages"):
        assert canary not in everything


def test_failed_requests_decide_the_exit_status(serving: Running, tmp_path: Path) -> None:
    asked = (
        "run",
        "--url",
        serving.url,
        "--model",
        "failing",
        "--requests",
        "2",
        "--warmup",
        "0",
        "--no-save",
    )
    done = bench(tmp_path, *asked)
    assert (done.returncode, "2 requests failed" in done.stderr) == (1, True)
    assert "2 generation_failed" in done.stdout
    assert bench(tmp_path, *asked, "--allow-errors", "--quiet").returncode == 0
    assert not (tmp_path / "benchmarks").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--url", "http://127.0.0.1:1", "--model", "x"), "No answer from http://127.0.0.1:1/v1"),
        (("run", "--engine", "nobody"), "There is no model of this name here."),
        (("run", "-c", "1,2"), "lists are for `sweep`"),
        (("run", "-c", "0"), "cannot be run"),
        (("sweep", "-c", ""), "no workload"),
        (("run", "--engine-option", "max_batch=many"), "--engine-option"),
        (("compare", "a.json", "http://127.0.0.1:1"), "A result file can only be compared with another."),
        (("compare", "a.json", "b.json"), "a.json cannot be read"),
        (("report", "nothing.json"), "nothing.json cannot be read"),
        (("sweep", "--start", "no-such-program", "--url", "http://127.0.0.1:1"), "cannot be started"),
        (("sweep", "--start", "true", "--url", "http://127.0.0.1:1"), "true ended before it answered."),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = bench(tmp_path, *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_wrong_command_line_is_two(tmp_path: Path) -> None:
    assert bench(tmp_path, "run", "-c", "many").returncode == 2
    assert bench(tmp_path).returncode == 2


def test_ctrl_c_keeps_what_is_done(serving: Running, tmp_path: Path) -> None:
    words = (
        "sweep",
        "--url",
        serving.url,
        "--model",
        "slow",
        "-c",
        "1,2",
        "--output-tokens",
        "100",
        "--requests",
        "1",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_panel.bench.command", *words, "--warmup", "0"],
        env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1 of 2")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in out
    (result,) = kept(tmp_path)
    assert (len(result.runs), result.complete) == (1, False)


def test_two_are_compared_and_servers_started_and_stopped(tmp_path: Path) -> None:
    port = free_port()
    scripted(tmp_path, "here", text="a b c d e f")
    folder = tiny_model(tmp_path / "models" / "tiny")
    start = (
        f"MLX_SERVER_DATA_DIR={tmp_path} MLX_TOKEN=canary {sys.executable} -m mlx_panel serve --port {port}"
    )
    done = bench(
        tmp_path, "compare", f"http://127.0.0.1:{port}", "tiny", "--model-a", "here", "--start-a", start, "--name-a", "first",
        "-c", "1,2", "--rounds", "2", "--tokenizer", str(folder), *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = kept(tmp_path)
    assert [(run.round, run.target, run.workload.concurrency) for run in result.runs] == [
        (0, 0, 1), (0, 1, 1), (0, 0, 2), (0, 1, 2), (1, 1, 1), (1, 0, 1), (1, 1, 2), (1, 0, 2),
    ]  # fmt: skip
    assert [target.name for target in result.targets] == ["first", "engine tiny"]
    assert {ratio.metric for ratio in result.ratios} >= {"tokens/s", "TTFT p50", "TTFT p95"}
    assert "A over B" in done.stdout
    assert "canary" not in result.command
    assert not _listening(port)


def _listening(port: int) -> bool:
    import socket

    end = time.monotonic() + 5
    while time.monotonic() < end:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)):
                return False
        time.sleep(0.05)
    return True


def test_files_are_listed_shown_compared_and_made_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    names = []
    for place, speed in enumerate((20.0, 10.0)):
        names.append(folder / f"{place}.json")
        names[-1].write_bytes(msgspec.json.encode(made(speeds=(speed,))))
    (folder / "foreign.json").write_text("{}")
    listed = bench(tmp_path, "list")
    assert listed.stdout.count("sweep") == 2
    assert "foreign.json is not a benchmark's result" in listed.stderr
    assert "12.5" not in bench(tmp_path, "show", str(names[0])).stdout
    compared = bench(tmp_path, "compare", *map(str, names))
    assert re.search(r"tokens/s .* 20\.0 +10\.0 +2\.00", compared.stdout)
    page = tmp_path / "PERFORMANCE.md"
    for _ in range(2):
        assert bench(tmp_path, "report", *map(str, names), "--out", str(page)).returncode == 0
    assert page.read_text().count("## mine, tiny") == 2
    page.write_text("# By hand\n")
    assert "was not made by" in bench(tmp_path, "report", str(names[0]), "--out", str(page)).stderr
    assert page.read_text() == "# By hand\n"


@pytest.mark.parametrize(
    ("words", "clean"),
    [
        (["run", "--api-key", "s3", "-c", "1"], "run --api-key *** -c 1"),
        (["compare", "a", "b", "--api-key-b=s3"], "compare a b --api-key-b=***"),
        (["run", "--url", "http://u:s3@h/v1"], "run --url http://h/v1"),
        (
            ["--start", "HF_TOKEN=s3 serve --password s3 -p 1"],
            "--start HF_TOKEN=*** serve --password *** -p 1",
        ),
        (["--start=A=1 KEY_TOKEN='s3 s3' serve"], "--start=A=1 KEY_TOKEN=*** serve"),
        (["--start", "serve -H 'Authorization: Bearer s3' x"], "--start serve -H Authorization: *** *** x"),
        (["--start", "P=http://u:s3@h serve"], "--start P=http://h serve"),
        (["--start", "serve 's3"], "--start ***"),
        (["run", "--prompt-tokens", "5", "--tokenizer", "x"], "run --prompt-tokens 5 --tokenizer x"),
    ],
)
def test_keys_never_stay_on_a_command_line_that_is_kept(words: list[str], clean: str) -> None:
    assert re.sub(r"['\"]", "", redacted(words)) == clean


def flags(one: argparse.ArgumentParser) -> Iterator[str]:
    for action in one._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from flags(child)


def test_every_flag_is_documented() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert {flag for flag in flags(parser()) if f"`{flag}" not in page} - {"-h", "--help"} == set()


def test_help_comes_without_the_heavy_parts() -> None:
    code = "import sys; from mlx_panel.bench import command; print([name for name in ('mlx', 'panel', 'tornado') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert json.loads(done.stdout.replace("'", '"')) == []
