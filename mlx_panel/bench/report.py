"""A Markdown page from results: every figure with the command, the machine, the versions and the model behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from . import columns, replay_tables
from .records import BenchmarkError, Result, Run

BEGIN = "<!-- mlx-benchmark report: what follows is generated; write your own words above this line -->"
END = "<!-- mlx-benchmark report: end; write your own words below this line -->"
INTRO = """\
# Performance

How to measure: [benchmarks.md](benchmarks.md). Every table below was made by the command above it.
"""
TERMS = """\
TTFT is the time from sending a request to its first token, ITL the gap between two arrivals of text, TPOT the mean time
per token of one answer after its first, E2E the time of a whole answer; each as percentiles over requests (ITL: over
gaps). Tokens/s are those of all answers together. `8 × 128→64` is 8 callers at once, prompts of 128 tokens, answers of
at most 64.
"""


def page(results: Sequence[Result], old: str | None = None, intro: str = "") -> str:
    """The page. What a person wrote around the generated part of an `old` page stays.

    Raises BenchmarkError when the old page has no generated part: it would be lost.
    """
    before, after = _around(old, intro or INTRO)
    parts = [TERMS, *(section(result) for result in results)]
    generated = "\n".join(part.rstrip() + "\n" for part in parts)
    return f"{before.rstrip()}\n\n{BEGIN}\n\n{generated}\n{END}\n{after}"


def write(results: Sequence[Result], file: Path, intro: str = "") -> None:
    """Write the page, atomically. Raises BenchmarkError, OSError."""
    old = file.read_text(encoding="utf-8") if file.exists() else None
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(page(results, old, intro), encoding="utf-8")
    partial.replace(file)


def _around(old: str | None, intro: str) -> tuple[str, str]:
    if old is None:
        return intro, ""
    if BEGIN not in old or END not in old:
        raise BenchmarkError("The page was not made by `mlx-benchmark report`; move it away or name another.")
    return old.partition(BEGIN)[0], old.partition(END)[2].removeprefix("\n")


def section(result: Result) -> str:
    """One result: what was asked, where, of what, and the figures."""
    lines = [f"## {_title(result)}", "", f"Measured {result.created:%Y-%m-%d %H:%M} UTC by", ""]
    lines += ["```", result.command or f"(a sweep of the dashboard, result {result.id})", "```", ""]
    lines += [
        f"- {columns.machine_line(result.machine)}",
        *(f"- {title}" for title in columns.titles(result)),
    ]
    lines += [""]
    if result.kind == "replay" and len(result.runs) > 1:
        lines += replay_tables.markdown(result, _table)
    if result.ratios:
        lines += [*_table(columns.RATIO_HEADERS, map(columns.ratio_cells, result.ratios)), ""]
    for place in range(len(result.targets)):
        runs = [run for run in result.runs if run.target == place]
        lines += [f"{columns.name(result, place)}:", ""] if len(result.targets) > 1 else []
        lines += [*_table(columns.HEADERS, map(columns.cells, typical(runs))), "", f"{columns.UNITS}", ""]
    lines += [f"- {note}" for note in columns.notes(result)]
    return "\n".join(lines)


def typical(runs: Sequence[Run]) -> list[Run]:
    """For each workload the round with the median speed, so that a table has one line for it."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if run.workload.same_as(group[0].workload):
                group.append(run)
                break
        else:
            groups.append([run])
    return [sorted(group, key=_speed)[len(group) // 2] for group in groups]


def _speed(run: Run) -> float:
    return run.summary.tokens_per_second


def _title(result: Result) -> str:
    names = " against ".join(target.name for target in result.targets)
    models = ", ".join(dict.fromkeys(Path(target.model).name for target in result.targets))
    return f"{names}, {models}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [headers, ["---"] * len(headers), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
