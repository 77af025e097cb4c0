"""Results as cells of text: what the terminal's tables and the Markdown page have in common."""

from __future__ import annotations

import re

from .records import Machine, Ratio, Result, Run, Spread, Summary, TargetInfo

HEADERS = (
    "Workload", "Requests", "Errors", "Tokens/s", "Cached", "TTFT p50 / p95 / p99", "ITL p50 / p95 / p99", "TPOT p50 / p95 / p99",
    "E2E p50 / p95",
)  # fmt: skip
RATIO_HEADERS = ("Workload", "Figure", "A", "B", "A / B", "Lowest – highest", "95 % interval", "Rounds")
UNITS = "Times in milliseconds."
FIGURE = re.compile(r"\d[\d.,%]*")


def cells(run: Run) -> list[str]:
    """A run as a row below `HEADERS`."""
    summary = run.summary
    return [
        run.workload.label, f"{summary.requests}", f"{summary.failed}", f"{summary.tokens_per_second:,.1f}", _cached(summary),
        percentiles(summary.ttft), percentiles(summary.itl), percentiles(summary.tpot),
        " / ".join(number(value) for value in (summary.e2e.p50, summary.e2e.p95)),
    ]  # fmt: skip


def ratio_cells(ratio: Ratio) -> list[str]:
    """A ratio as a row below `RATIO_HEADERS`."""
    sure = f"{ratio.sure_low:.2f} – {ratio.sure_high:.2f}" if ratio.sure_low and ratio.sure_high else "–"
    return [
        ratio.workload, f"{ratio.metric} ({ratio.better} is better)", number(ratio.a), number(ratio.b),
        f"{ratio.median:.2f}", f"{ratio.low:.2f} – {ratio.high:.2f}", sure, f"{ratio.rounds}",
    ]  # fmt: skip


def _cached(summary: Summary) -> str:
    """The share of the prompts' tokens that came from a prefix cache."""
    share = summary.cached_tokens / summary.prompt_tokens if summary.prompt_tokens else 0.0
    return f"{share:.0%}" if share else "–"


def percentiles(spread: Spread) -> str:
    return " / ".join(number(value) for value in (spread.p50, spread.p95, spread.p99))


def number(value: float | None) -> str:
    """Three digits that mean something; a dash where nothing was measured."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine_line(machine: Machine) -> str:
    memory = f"{machine.memory / 2**30:.0f} GB" if machine.memory else ""
    load = f"load {machine.load:.1f} at the start"
    parts = (machine.cpu, f"{machine.cores} cores", memory, machine.system, f"Python {machine.python}", load)
    return ", ".join(part for part in parts if part)


def target_line(target: TargetInfo) -> str:
    """Name, place, model with its hash, device and versions."""
    model = f"{target.model} ({target.model_hash})" if target.model_hash else target.model
    shape = " ".join(part for part in (target.architecture, target.dtype) if part)
    versions = ", ".join(f"{name} {version}" for name, version in target.versions.items())
    options = ", ".join(f"{name}={value}" for name, value in target.options.items())
    parts = (
        target.url or ("" if target.kind == "recorded" else "in this process"),
        model,
        shape,
        target.device,
        target.blas,
        target.server,
        versions,
        options,
    )
    return f"{target.name}: " + ", ".join(part for part in parts if part)


def titles(result: Result) -> list[str]:
    """Its targets, with A and B before them where they are compared."""
    return [
        f"{letter}{target_line(target)}"
        for letter, target in zip(_letters(result), result.targets, strict=False)
    ]


def name(result: Result, place: int) -> str:
    """How a target is called above its table."""
    return _letters(result)[place] + result.targets[place].name


def _letters(result: Result) -> tuple[str, ...]:
    """What stands before the names of targets that are seen side by side."""
    if result.kind == "replay":
        return ("Then: ", "Now: ") if len(result.targets) < 3 else ("Then: ", "A: ", "B: ")
    return ("A: ", "B: ") if result.kind == "compare" else ("",)


def notes(result: Result) -> list[str]:
    """Warnings of all runs; those that say the same with other figures are told once, with how often they came."""
    found: dict[str, list[str]] = {}
    for run in result.runs:
        for warning in run.warnings:
            found.setdefault(FIGURE.sub("#", warning), []).append(f"{run.workload.label}: {warning}")
    lines = [f"{same[0]} {_more(len(same) - 1)}".rstrip() for same in found.values()]
    return lines if result.complete else ["Interrupted: not all of it was measured.", *lines]


def _more(count: int) -> str:
    return f"(So in {count} more runs, with other figures.)" if count else ""
