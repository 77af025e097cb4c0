"""`mlx-panel models`: what is on the shelf, importing a GGUF file, fetching the demo model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import MlxPanelError
from ..messages import LocalModel
from .disk import Shelf, hub_cache, models_folder

DTYPES = ("float32", "float16", "bfloat16", "keep")
STAGES = {"download": "Downloading", "weights": "Writing weights"}
PLAIN_WIDTH = 160


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `models` and its actions to a command line; `run` carries them out."""
    parser = subparsers.add_parser(
        "models", help="models on this machine: list, import a GGUF file, fetch a demo"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every model that can be served")
    listing.add_argument("--json", action="store_true", help="as JSON")
    importing = actions.add_parser("import", help="turn a GGUF file into a model folder")
    importing.add_argument("file", type=Path, metavar="FILE.gguf")
    importing.add_argument("--name", help="the model's name (default: the file's own)")
    importing.add_argument("--force", action="store_true", help="replace a model of that name")
    demo = actions.add_parser("demo", help="fetch SmolLM2-135M-Instruct, a small real model (93 MB)")
    demo.add_argument("--embedding", action="store_true", help="fetch all-MiniLM-L6-v2 instead (84 MB)")
    for action in (importing, demo):
        action.add_argument("--dtype", choices=DTYPES, help="the weights' form; keep leaves them quantised")
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out one action; the exit code. What fails is told in one line on standard error."""
    actions = {"list": _list, "import": _import, "demo": _demo}
    try:
        actions[args.action](args)
    except (MlxPanelError, OSError) as error:
        print(f"mlx-panel: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mlx-panel: interrupted; nothing was kept", file=sys.stderr)
        return 130
    return 0


def _list(args: argparse.Namespace) -> None:
    models = Shelf(models_folder(), cache=hub_cache()).scan()
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(models)).decode())
    elif models:
        _console(sys.stdout.isatty()).print(_table(models))
    else:
        print("No models yet. Fetch a small one with: mlx-panel models demo")


def _import(args: argparse.Namespace) -> None:
    from .gguf import import_gguf

    with _progress() as report:
        model = import_gguf(
            args.file,
            models_folder(),
            name=args.name,
            dtype=args.dtype or "keep",
            force=args.force,
            progress=report,
        )
    _tell(model)


def _demo(args: argparse.Namespace) -> None:
    from .demo import fetch_demo, fetch_embedding_demo

    with _progress() as report:
        if args.embedding:
            model = fetch_embedding_demo(models_folder(), progress=report)
        else:
            model = fetch_demo(models_folder(), dtype=args.dtype, progress=report)
    _tell(model)


def _tell(model: LocalModel) -> None:
    form = ", ".join(part for part in (model.architecture, model.dtype, _size(model.bytes)) if part)
    print(f"{model.id}: {form}, in {model.path}")


def _table(models: list[LocalModel]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("Model", overflow="fold")
    for title in ("Architecture", "Weights"):
        table.add_column(title, no_wrap=True)
    for title in ("Size", "Context"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Where", no_wrap=True)
    for model in models:
        context = f"{model.context_length:,}" if model.context_length else ""
        table.add_row(model.id, model.architecture, model.dtype, _size(model.bytes), context, model.source)
    return table


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _console(terminal: bool, *, stderr: bool = False) -> Console:
    return Console(stderr=stderr, width=None if terminal else PLAIN_WIDTH, highlight=False)


@contextmanager
def _progress() -> Iterator[_Bars | _Lines]:
    """Where progress is told: bars on a terminal, else one line a quarter."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(True, stderr=True)) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar a stage."""

    def __init__(self, bars: Progress):
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(STAGES.get(stage, stage), total=total)
        self.bars.update(self.tasks[stage], completed=done)


class _Lines:
    """A line when a stage has come a quarter further."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if quarter > self.told.get(stage, 0):
            self.told[stage] = quarter
            print(f"{STAGES.get(stage, stage)}: {_size(done)} of {_size(total)}", file=sys.stderr)
