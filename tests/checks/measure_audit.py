"""How long the audit page's questions take over 10 million requests, and what they cost a model that runs beside them.

    python -m tests.checks.measure_audit [--rows 10000000] [--file FILE] [--rounds 3]
    python -m tests.checks.measure_audit --file FILE --beside MODEL_FOLDER [--windows 24]

Without `--file` a file is made (about a minute) and removed. Questions are asked as the server does: one thread, 512 MB.
"first" is the first time after the file was opened, so the operating system may hold it already; "median" and "worst"
are of `--rounds` whole pages, and "cpu" is the median of processor time, which other programs change less. With `--beside` an engine decodes without a pause; windows of 5 seconds in which another
process asks for the page once take turns with windows in which nobody asks. Not a test: machines differ.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb

from mlx_panel.analytics import CHARTS, AuditFilter, Price
from mlx_panel.audit.charts import chart, stats
from mlx_panel.audit.database import CONFIG
from mlx_panel.audit.generate import CALLERS, generate
from mlx_panel.audit.queries import rows

PRICES = {"openai": Price(0.15, 0.6, 0.075), "anthropic": Price(1.0, 5.0)}
RARE = f"10.0.{(CALLERS - 1) // 16}.{9 + CALLERS}"
FILTERS = {
    "everything": AuditFilter(),
    "last 30 days": AuditFilter(range="30d"),
    "one model": AuditFilter(model=("gpt-oss-20b-MXFP4",)),
    "a rare caller": AuditFilter(caller=(RARE,)),
    "timeouts": AuditFilter(status=("timeout",)),
}
WINDOW_SECONDS, LANES = 5.0, 2

Work = Callable[[], object]


def questions(cursor: duckdb.DuckDBPyConnection, filter: AuditFilter) -> dict[str, Work]:
    """What the page asks for when it opens."""
    asked: dict[str, Work] = {
        name: lambda name=name: chart(cursor, name, filter, prices=PRICES) for name in CHARTS
    }
    return asked | {"numbers": lambda: stats(cursor, filter, PRICES), "table": lambda: rows(cursor, filter)}


def milliseconds(work: Work) -> tuple[float, float]:
    """By the clock, and of the processor."""
    begin, used = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - begin) * 1000, (time.process_time() - used) * 1000


def measure(cursor: duckdb.DuckDBPyConnection, label: str, filter: AuditFilter, rounds: int) -> None:
    asked = questions(cursor, filter)
    first = {name: milliseconds(work) for name, work in asked.items()}
    times = [{name: milliseconds(work) for name, work in asked.items()} for _ in range(rounds)]
    total = chart(cursor, "requests", filter).total
    print(f"\n{label}: {total:,} requests, load average {os.getloadavg()[0]:.1f}")
    print(f"{'':<14}{'first':>9}{'median':>9}{'worst':>9}{'cpu':>9}  ms")
    for names, text in [
        *(([name], name) for name in asked),
        (list(CHARTS), "13 charts"),
        (list(asked), "whole page"),
    ]:
        clock, used = ([sum(one[name][kind] for name in names) for one in times] for kind in (0, 1))
        row = [
            sum(first[name][0] for name in names),
            statistics.median(clock),
            max(clock),
            statistics.median(used),
        ]
        print(f"{text:<14}" + "".join(f"{value:>9.1f}" for value in row))


@contextlib.contextmanager
def log(file: Path | None, count: int) -> Iterator[Path]:
    if file is not None:
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        made, begin = Path(folder) / "audit.duckdb", time.perf_counter()
        generate(made, count)
        size = made.stat().st_size / 1e6
        print(f"{count:,} requests made in {time.perf_counter() - begin:.1f} s, {size:,.0f} MB")
        yield made


def answer(file: Path) -> None:
    """Another process: a page for each line that comes, its milliseconds by the clock and of the processor back."""
    with duckdb.connect(str(file), read_only=True, config=CONFIG) as cursor:
        asked = questions(cursor, AuditFilter(range="30d"))
        for _ in sys.stdin:
            clock, used = zip(*(milliseconds(work) for work in asked.values()), strict=True)
            print(sum(clock), sum(used), flush=True)


def beside(file: Path, model: Path, windows: int) -> None:
    """Tokens a second with and without the page being asked for, in turns."""
    command = [sys.executable, "-m", "tests.checks.measure_audit", "--file", str(file), "--answer"]
    decode = decoder(model)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdin
        assert asker.stdout
        print("page", file=asker.stdin, flush=True)
        asker.stdout.readline()
        decode(WINDOW_SECONDS)
        alone, asked, pages = [], [], []
        for _ in range(windows // 2):
            alone.append(decode(WINDOW_SECONDS))
            print("page", file=asker.stdin, flush=True)
            asked.append(decode(WINDOW_SECONDS))
            pages.append([float(part) for part in asker.stdout.readline().split()])
        asker.stdin.close()
    clock, used = (statistics.median(kind) for kind in zip(*pages, strict=True))
    print(
        f"\nload average {os.getloadavg()[0]:.1f}; a page takes {clock:.0f} ms, {used:.0f} ms of the processor, ",
        end="",
    )
    print(f"{used / 10 / WINDOW_SECONDS / (os.cpu_count() or 1):.1f} % of this machine")
    ratios = [1 - busy / quiet for busy, quiet in zip(asked, alone, strict=True)]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    print(
        f"alone {statistics.median(alone):.1f} tokens/s, beside the page {statistics.median(asked):.1f}; ",
        end="",
    )
    print(
        f"slowed by {statistics.mean(ratios):.1%} ± {error:.1%} (mean of {len(ratios)} pairs and its error)"
    )


def decoder(model: Path) -> Callable[[float], float]:
    """A function that decodes for some seconds and gives tokens a second; answers begin anew when they are long."""
    from mlx_panel.engine.engine import Engine
    from mlx_panel.request import GenerateRequest

    engine, served = Engine.load(model), 0

    def decode(seconds: float) -> float:
        nonlocal served
        begin, before = time.perf_counter(), engine.completion_tokens
        while time.perf_counter() - begin < seconds:
            while engine.running + engine.queued < LANES:
                served += 1
                engine.add(
                    GenerateRequest(
                        f"r{served}", "m", prompt="Once upon a time", max_tokens=256, ignore_eos=True
                    )
                )
            engine.step()
        return (engine.completion_tokens - before) / (time.perf_counter() - begin)

    return decode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        answer(given.file)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, DuckDB {duckdb.__version__}")
    with log(given.file, given.rows) as file:
        if given.beside:
            beside(file, given.beside, given.windows)
            return
        with duckdb.connect(str(file), read_only=True, config=CONFIG) as cursor:
            for label, filter in FILTERS.items():
                measure(cursor, label, filter, given.rounds)


if __name__ == "__main__":
    main()
