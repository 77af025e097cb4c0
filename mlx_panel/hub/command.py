"""`mlx-panel models`: the words of its command line, and how its actions end."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import psutil

from ..errors import MlxPanelError
from ..library import Bits, Capability, QuantMode, Recipe, SortKey
from ..settings import Settings

DTYPES = ("float32", "float16", "bfloat16", "keep")
GROUPS = (32, 64, 128)
INTERRUPTED = 130


def machine_memory() -> int:
    """All of this machine's memory, bytes."""
    return psutil.virtual_memory().total


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `models` and its actions to a command line; `run` carries them out."""
    parser = subparsers.add_parser(
        "models", help="models on the hub and on this machine: find, fetch, look after, make"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    where = _where()
    _add_search(actions.add_parser("search", parents=[where], help="find models for MLX on the hub"))
    _add_pull(actions.add_parser("pull", parents=[where], help="fetch a model into the hub cache"))
    listing = actions.add_parser("list", parents=[where], help="every model on this machine")
    listing.add_argument("--json", action="store_true", help="as JSON")
    show = actions.add_parser(
        "show", parents=[where], help="all about a model, of this machine or on the hub"
    )
    show.add_argument("model", metavar="MODEL")
    show.add_argument("--hub", action="store_true", help="what the hub says, also of one that is here")
    show.add_argument("--json", action="store_true", help="as JSON")
    remove = actions.add_parser("rm", parents=[where], help="delete a model's files")
    remove.add_argument("model", metavar="MODEL")
    remove.add_argument("--yes", "-y", action="store_true", help="without a question")
    remove.add_argument("--force", action="store_true", help="also where a preset or an alias names it")
    for name, text in (
        ("verify", "compare a model's files with their hashes"),
        ("probe", "load a model and try what it can do"),
    ):
        job = actions.add_parser(name, parents=[where], help=text)
        job.add_argument("model", metavar="MODEL")
        form = job.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="the task with its findings as JSON")
        form.add_argument("--report", action="store_true", help="a report in Markdown, to copy")
    _add_convert(
        actions.add_parser("convert", parents=[where], help="quantise a model, or change its numbers")
    )
    _add_makers(actions)
    return parser


def _where() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_mutually_exclusive_group()
    group.add_argument(
        "--url", help="the server that is to do it (default: the one that runs on this machine, if any)"
    )
    group.add_argument("--alone", action="store_true", help="do it in this process, without a server")
    return parent


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", nargs="*", help="words of the name")
    parser.add_argument("--author", default="", help="who made it, such as mlx-community")
    parser.add_argument("--architecture", default="", help="as configs name it: llama, qwen3, gemma3_text …")
    parser.add_argument(
        "--bits", type=int, default=0, help="of a weight: 2 to 8, or 16 for those not quantised"
    )
    parser.add_argument("--capability", choices=get_args(Capability), default="", help="what it can do")
    parser.add_argument("--max-size", default="", metavar="SIZE", help="of the weights at most: 8GB, 800MB")
    parser.add_argument("--fits", action="store_true", help="only what fits into this machine's memory")
    parser.add_argument(
        "--sort", choices=get_args(SortKey), default="downloads", help="the order (downloads)"
    )
    parser.add_argument("--limit", type=int, default=20, help="hits at most (20)")
    parser.add_argument("--cursor", default="", help="go on where the last page ended")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="its name on the hub, owner/name")
    parser.add_argument("--revision", default="main", help="a branch, a tag or a commit (main)")
    parser.add_argument("--cancel", action="store_true", help="end the server's download of it instead")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="on this machine, or on the hub (then it is fetched first)"
    )
    parser.add_argument("--name", help="the new model's name (default: its own and what was done)")
    parser.add_argument(
        "--bits", type=int, choices=get_args(Bits), help="of a weight; 0 does not quantise (4)"
    )
    parser.add_argument(
        "--group-size", type=int, choices=GROUPS, default=0, help="weights that share a scale (64)"
    )
    parser.add_argument(
        "--mode", choices=get_args(QuantMode), default="affine", help="how to quantise (affine)"
    )
    parser.add_argument(
        "--recipe",
        choices=[one for one in get_args(Recipe) if one],
        default="",
        help="more bits for some layers",
    )
    parser.add_argument("--dtype", choices=DTYPES[:3], help="of what is not quantised")
    parser.add_argument("--dequantize", action="store_true", help="make a quantised model one that is not")


def _add_makers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    importing = actions.add_parser("import", help="turn a GGUF file into a model folder")
    importing.add_argument("file", type=Path, metavar="FILE.gguf")
    importing.add_argument("--name", help="the model's name (default: the file's own)")
    importing.add_argument("--force", action="store_true", help="replace a model of that name")
    demo = actions.add_parser("demo", help="fetch SmolLM2-135M-Instruct, a small real model (93 MB)")
    demo.add_argument("--embedding", action="store_true", help="fetch all-MiniLM-L6-v2 instead (84 MB)")
    for action in (importing, demo):
        action.add_argument("--dtype", choices=DTYPES, help="the weights' form; keep leaves them quantised")


def run(args: argparse.Namespace, memory: Callable[[], int] = machine_memory) -> int:
    """Carry out one action; the exit code. What fails is told in one line on standard error.

    `memory` is what all models may take together where no server says so, bytes.
    """
    from .cli_jobs import Failed

    try:
        return _made(args) if args.action in ("import", "demo") else _placed(args, memory)
    except (MlxPanelError, OSError, Failed) as error:
        print(f"mlx-panel: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if args.action in ("import", "demo"):
            print("mlx-panel: interrupted; nothing was kept", file=sys.stderr)
        return INTERRUPTED


def _made(args: argparse.Namespace) -> int:
    from . import cli_make

    (cli_make.importing if args.action == "import" else cli_make.demo)(args)
    return 0


def _placed(args: argparse.Namespace, memory: Callable[[], int]) -> int:
    """An action on a server, or here; one loop serves it from its first request to its last."""
    from . import cli_jobs, cli_show

    looks = {"search": cli_show.search, "list": cli_show.listing, "show": cli_show.show}
    works: dict[str, Callable[..., int]] = {
        "pull": cli_jobs.pull, "verify": cli_jobs.verify, "probe": cli_jobs.probe, "convert": cli_jobs.convert,
        "rm": cli_jobs.remove,
    }  # fmt: skip
    with asyncio.Runner() as runner:
        place = _place(args, memory)
        try:
            if args.action in looks:
                runner.run(looks[args.action](place, args))
                return 0
            return works[args.action](place, runner.run, args)
        finally:
            runner.run(place.close())


def _place(args: argparse.Namespace, memory: Callable[[], int]) -> Any:
    """A `Place`: the server asked for, the one that runs, or this process."""
    from .cli_server import OverServer, find

    if args.url:
        return OverServer(args.url.rstrip("/").removesuffix("/v1"))
    settings = Settings.load()
    url = "" if args.alone else find(settings.port, settings.folder)
    if url:
        return OverServer(url)
    from .cli_alone import Alone

    return Alone(settings, memory())
