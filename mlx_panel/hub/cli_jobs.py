"""`mlx-panel models pull`, `verify`, `probe`, `convert` and `rm`: what takes a while, watched."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from ..chat import printable
from ..errors import Conflict, ModelNotFound
from ..library import ConvertOrder, Download, Finding, Task
from . import cli_text as shown
from .cli_place import OVER, Place
from .cli_show import json

Run = Callable[[Coroutine[Any, Any, Any]], Any]
INTERRUPTED = 130


class Failed(Exception):
    """A job ended without what it was for; the words are for a person."""


def pull(place: Place, run: Run, args: argparse.Namespace) -> int:
    """Fetch a model, watched until it is here."""
    if args.cancel:
        run(_cancel(place, args.model))
        return 0
    download: Download = run(place.pull(args.model, args.revision))
    try:
        last: Download = run(_watch_download(place, download))
    except KeyboardInterrupt:
        return _leave_download(place, run, download)
    if last.state != "completed":
        raise Failed(last.error or f"The download was {last.state}.")
    print(
        f"{last.model}: {shown.size(last.total)} in {last.files} files, checked, at commit {last.commit[:12]}"
    )
    return 0


async def _cancel(place: Place, model: str) -> None:
    for one in await place.downloads():
        if one.model == model and one.state not in OVER:
            await place.cancel_download(one.task)
            print(f"The download of {model} is cancelled; what it had fetched is deleted.")
            return
    raise Conflict(f"There is no download of {model} to cancel.")


async def _watch_download(place: Place, first: Download) -> Download:
    last = first
    with shown.progress(speed=True) as bars:
        async for last in place.watch_download(first.task):
            bars(last.model, last.done, last.total)
            if last.state == "paused":
                break
    return last


def _leave_download(place: Place, run: Run, download: Download) -> int:
    """Ctrl-C: a server's job is its own, so a person is asked; one of this process ends with it."""
    model = download.model
    if not place.stays:
        _say(f"Interrupted. What has come is kept; `mlx-panel models pull {model}` goes on with it.")
    elif _asked(f"The download of {model} is a job of {place.name}. Leave it running?", default=True):
        _say(f"It goes on. `mlx-panel models pull {model}` watches it again, with --cancel it ends.")
    else:
        run(place.cancel_download(download.task))
        _say("It is cancelled.")
    return INTERRUPTED


def verify(place: Place, run: Run, args: argparse.Namespace) -> int:
    task = _done(place, run, run(place.verify(args.model)))
    bad = [one for one in task.findings if one.level == "action_needed"]
    _report(task, args)
    if bad:
        raise Failed(f"{args.model} is damaged. {_line(bad[0])}")
    return 0


def probe(place: Place, run: Run, args: argparse.Namespace) -> int:
    _report(_done(place, run, run(place.probe(args.model))), args)
    return 0


def convert(place: Place, run: Run, args: argparse.Namespace) -> int:
    """Make another model of one; one that is not on this machine is fetched first."""
    if args.model not in {model.id for model in run(place.local())}:
        if "/" not in args.model:
            raise ModelNotFound(
                f"There is no model {args.model} on this machine; on the hub names are owner/name."
            )
        _say(f"{args.model} is not on this machine; it is fetched first.")
        args.cancel, args.revision = False, "main"
        if code := pull(place, run, args):
            return code
    order = ConvertOrder(
        model=args.model, name=args.name or "", bits=args.bits, group_size=args.group_size, mode=args.mode,
        recipe=args.recipe, dtype=args.dtype or "", dequantize=args.dequantize,
    )  # fmt: skip
    task = _done(place, run, run(place.convert(order)))
    print(f"{task.result}: made of {task.model}. Chat with it: mlx-panel chat {task.result}")
    return 0


def remove(place: Place, run: Run, args: argparse.Namespace) -> int:
    """Delete a model's files once a person has said yes."""
    models = {model.id: model for model in run(place.local())}
    if args.model not in models:
        raise ModelNotFound(
            f"There is no model {args.model} on this machine; `mlx-panel models list` shows those there are."
        )
    model = models[args.model]
    question = f"Delete {model.id} ({shown.size(model.bytes)}) from {model.path}?"
    if not args.yes and not _asked(question, default=False):
        raise Failed("Nothing was deleted; --yes deletes without a question.")
    freed = run(place.delete(model.id, force=args.force))
    print(f"{model.id} is deleted; {shown.size(freed)} of disk are free again.")
    return 0


def _done(place: Place, run: Run, task: Task) -> Task:
    """The task once it is over. Raises Failed, and KeyboardInterrupt once Ctrl-C has ended the task."""
    try:
        last: Task = run(_watch_task(place, task))
    except KeyboardInterrupt:
        run(place.cancel_task(task.id))
        _say(f"The {task.kind} task is cancelled.")
        raise
    if last.state != "done":
        raise Failed(last.error or f"The task was {last.state}.")
    return last


async def _watch_task(place: Place, first: Task) -> Task:
    last = first
    with shown.progress(steps=first.kind == "probe") as bars:
        async for last in place.watch_task(first.id):
            if last.step:
                bars(last.step, last.done, last.total)
    return last


def _report(task: Task, args: argparse.Namespace) -> None:
    if args.json:
        return json(task)
    if args.report:
        print(task.report)
        return
    out = shown.console()
    for one in task.findings:
        out.print(
            _line(one),
            markup=False,
            style={"info": "", "warning": "yellow", "action_needed": "red"}[one.level],
        )


def _line(one: Finding) -> str:
    return printable(f"{one.step}: {one.text or one.value}")


def _asked(question: str, *, default: bool) -> bool:
    """A person's yes or no; the default where nobody can be asked."""
    if not sys.stdin.isatty():
        return default
    try:
        answer = input(f"{question} [{'Y/n' if default else 'y/N'}] ").strip().lower()
    except (EOFError, KeyboardInterrupt):
        print()
        return default
    return answer.startswith("y") if answer else default


def _say(text: str) -> None:
    print(f"mlx-panel: {text}", file=sys.stderr)
