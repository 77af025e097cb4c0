"""`mlx-panel`: argv to a command. Panel and mlx are imported only by the commands that need them."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import sys
from pathlib import Path

from . import __version__
from .errors import MlxPanelError


def entry() -> None:
    """`mlx-panel` as a process."""
    status = main()
    if sys.argv[1:2] == ["serve"]:
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> None:
    """End a server's process without taking Python apart: Bokeh keeps pages to the very end, and DuckDB's binding would
    list on the terminal all that they hold of it. Everything of ours is closed and on the disk by now."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["serve"]:
        from .serve import run  # Panel takes a second to import

        return run(argv[1:])
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return args.run(args)
    except MlxPanelError as error:
        print(f"mlx-panel: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-panel",
        description="Serve local MLX models to any OpenAI client and watch what happens, live.",
    )
    parser.add_argument("--version", action="version", version=f"mlx-panel {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "serve", help="start the server and the dashboard (all options of `panel serve` work)", add_help=False
    )
    _add_models(commands)
    _add_audit(commands)
    _add_chat(commands)
    path = commands.add_parser(
        "app-path",
        help="print the dashboard's file, for `panel serve $(mlx-panel app-path) --plugins mlx_panel.plugin`",
    )
    path.set_defaults(run=_app_path)
    return parser


def _add_models(commands: argparse._SubParsersAction) -> None:
    from .hub import command

    command.add_parser(commands).set_defaults(run=_models)


def _models(args: argparse.Namespace) -> int:
    from .hub import command
    from .pool.sizes import recommended_memory  # the hub's part may not know the pool's

    return command.run(args, recommended_memory)


def _add_audit(commands: argparse._SubParsersAction) -> None:
    from . import audit_command

    audit_command.add_parser(commands).set_defaults(run=audit_command.run)


def _add_chat(commands: argparse._SubParsersAction) -> None:
    chat = commands.add_parser("chat", help="chat with a model in the terminal")
    chat.add_argument("model", metavar="MODEL", help="the model's name; `mlx-panel models list` shows them")
    chat.add_argument("--url", default=None, help="the server (http://127.0.0.1:10242)")
    chat.add_argument("--system", default=None, help="a system prompt")
    chat.add_argument("--temperature", type=float, default=None, help="0 is greedy, 2 the most random")
    chat.add_argument("--max-tokens", type=int, default=None, help="longest answer")
    chat.set_defaults(run=_chat)


def _chat(args: argparse.Namespace) -> int:
    from .chat import run  # httpx and rich are not needed by the other commands

    return run(args)


def _app_path(args: argparse.Namespace) -> int:
    print(Path(__file__).parent / "dashboard" / "main.py")
    return 0
