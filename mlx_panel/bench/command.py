"""`mlx-benchmark`: measure, compare, keep and show."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import sys
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..errors import MlxPanelError
from . import columns, replay_arguments, replay_tables, report, sources, tables
from .arguments import key, parser, redacted, side, target, tokenizers, workloads
from .compare import compare, compare_results
from .records import BenchmarkError, Plan, Progress, Result, Target
from .replay import Planned, plan, replay
from .results import load, load_all, new, results_folder, save, write_json, write_parquet
from .servers import started
from .sweep import Report, sweep

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0, 1 where something failed, 2 for a wrong command line, 130 for Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(words)
    args.line = f"mlx-benchmark {redacted(words)}"
    try:
        return ACTIONS[args.command](args)
    except (MlxPanelError, OSError) as error:
        print(f"mlx-benchmark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


# --- measuring -----------------------------------------------------------------------------------------------


class Watch:
    """Hears of progress and keeps the last: an interrupted benchmark is as good as its finished runs."""

    def __init__(self, then: Report):
        self._then = then
        self.result: Result | None = None

    def __repr__(self) -> str:
        return f"<Watch {self.result.id if self.result else 'nothing'}>"

    def __call__(self, progress: Progress) -> None:
        self.result = progress.result
        self._then(progress)


def _measure(args: argparse.Namespace, work: Callable[[Report], Coroutine[Any, Any, Result]]) -> int:
    """Carry out, keep, show. Ctrl-C keeps what is done."""
    status, said = 0, ""
    with tables.progress(args.quiet) as then:
        watch = Watch(then)
        try:
            watch.result = asyncio.run(work(watch))
        except KeyboardInterrupt:
            status, said = INTERRUPTED, "interrupted"
        except MlxPanelError as error:
            status, said = 1, str(error)
    if watch.result is not None and watch.result.runs:
        _keep(watch.result, args)
    if said:
        print(f"mlx-benchmark: {said}", file=sys.stderr)
    return status or _verdict(watch.result, args.allow_errors)


def _keep(result: Result, args: argparse.Namespace) -> None:
    out = tables.console()
    tables.show(result, out)
    if not args.no_save:
        out.print(f"Kept in {save(result, args.folder)}")
    if args.json:
        write_json(result, args.json)
    if args.parquet:
        write_parquet([result], args.parquet)


def _verdict(result: Result | None, allow: bool) -> int:
    failed = sum(run.summary.failed for run in result.measured) if result else 0
    if failed:
        print(f"mlx-benchmark: {failed} requests failed", file=sys.stderr)
    return 1 if failed and not allow else 0


def _say(message: str) -> None:
    print(f"mlx-benchmark: the server says: {message}", file=sys.stderr)


def _run(args: argparse.Namespace) -> int:
    plan = Plan(target=target(args), workloads=workloads(args))
    kind = args.command
    _startable(args.start, plan.target)

    async def work(then: Report) -> Result:
        async with started(args.start, plan.target.url, key=key(args), timeout=args.start_timeout):
            return await sweep(plan, then, key=key(args), command=args.line, kind=kind, say=_say)

    return _measure(args, work)


def _compare(args: argparse.Namespace) -> int:
    if all(Path(place).suffix == ".json" for place in (args.a, args.b)):
        return _compare_files(load(Path(args.a)), load(Path(args.b)))
    a, b, asked = side(args, "a"), side(args, "b"), workloads(args)
    keys = (key(args, "a"), key(args, "b"))

    async def work(then: Report) -> Result:
        async with contextlib.AsyncExitStack() as stack:
            for one, start, secret in zip((a, b), (args.start_a, args.start_b), keys, strict=True):
                _startable(start, one)
                server = started(start, one.url, key=secret, timeout=args.start_timeout)
                await stack.enter_async_context(server)
            return await compare(
                a, b, asked, then, rounds=args.rounds, keys=keys, command=args.line, say=_say
            )

    return _measure(args, work)


def _replay(args: argparse.Namespace) -> int:
    chosen, wish, first = replay_arguments.filter(args), replay_arguments.wish(args), target(args)
    _startable(args.start, first)
    with tempfile.TemporaryDirectory(prefix="mlx-benchmark-") as folder:
        with sources.opened(args.place, chosen, url=args.source_url) as source:
            file = Path(folder) / "past.jsonl"
            planned = plan(source.pasts, wish, file, source=source.name, timeout=args.timeout)
        if args.dry_run:
            print("\n".join(replay_tables.preview(planned)))
            return 0
        if not args.quiet:
            print(f"mlx-benchmark: {planned.workload.label}", file=sys.stderr)
        return _measure(args, partial(_again, args, first, planned))


async def _again(args: argparse.Namespace, first: Target, planned: Planned, then: Report) -> Result:
    models = sorted(model for model in planned.models if model)
    first = msgspec.structs.replace(first, model=first.model or next(iter(models), ""))
    targets = replay_arguments.both(args, first)
    keys = [key(args), args.api_key_b or key(args)]
    folders = {} if args.tokenizer else await asyncio.to_thread(tokenizers, models)
    async with started(args.start, first.url, key=keys[0], timeout=args.start_timeout):
        return await replay(
            targets, planned, then, tokenizers=folders, keys=keys, command=args.line, say=_say
        )


def _startable(command: str, what: Target) -> None:
    if command and not what.url:
        raise BenchmarkError("Only a server can be started; an engine loads by itself.")


# --- files ---------------------------------------------------------------------------------------------------


def _compare_files(a: Result, b: Result) -> int:
    found = compare_results(a, b)
    if not found:
        raise BenchmarkError("These results have no workload in common in which both had answers.")
    both = msgspec.structs.replace(
        new("compare"),
        targets=(*a.targets[:1], *b.targets[:1]),
        ratios=found,
        complete=a.complete and b.complete,
    )
    tables.show(both, tables.console())
    return 0


def _show(args: argparse.Namespace) -> int:
    results = [load(file) for file in args.files]
    for result in results:
        tables.show(result, tables.console())
    if args.parquet:
        write_parquet(results, args.parquet)
    return 0


def _list(args: argparse.Namespace) -> int:
    folder = args.folder or results_folder()
    found = load_all(folder)
    for result in found.results:
        names = " against ".join(one.name for one in result.targets)
        speeds = [run.summary.tokens_per_second for run in result.runs]
        best = f"up to {columns.number(max(speeds))} tok/s" if speeds else "nothing measured"
        print(f"{result.id}  {result.kind:<7}  {len(speeds):>3} runs  {names}: {best}")
    for line in found.skipped:
        print(f"mlx-benchmark: skipped: {line}", file=sys.stderr)
    if not found.results:
        print(f"No results in {shlex.quote(str(folder))} yet.")
    return 0


def _report(args: argparse.Namespace) -> int:
    results = [load(file) for file in args.files]
    intro = args.intro.read_text(encoding="utf-8") if args.intro else ""
    if args.out is None:
        print(report.page(results, intro=intro))
    else:
        report.write(results, args.out, intro)
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run, "sweep": _run, "compare": _compare, "replay": _replay, "list": _list, "show": _show, "report": _report,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
