"""The command line of `mlx-benchmark`: options, and what they mean as targets and workloads."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .. import __version__
from ..errors import ModelNotFound
from ..hub.disk import Shelf, hub_cache, models_folder
from ..settings import DEFAULT_PORT
from ..tuning import EngineOptions
from . import replay_arguments
from .http1 import shown
from .records import BenchmarkError, Target, Workload
from .sweep import CONCURRENCY, SAMPLED, matrix, standard

KEY_VARIABLE = "MLX_BENCHMARK_API_KEY"
DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
SECRET = re.compile(
    r"(?:api[-_]?key|secret|passw(?:or)?d|authorization|bearer|(?:^|[-_])token)(?:[-_][ab])?:?$", re.I
)
DEFAULT_CONCURRENCY = {"run": (1,), "sweep": CONCURRENCY, "compare": (1, 8, 32)}
AXES = ("prompt_tokens", "output_tokens", "shared_prefix", "cancel", "concurrency")


USUAL = Workload()
Option = tuple[str, str, Callable[[str], Any], Any, str]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="mlx-benchmark",
        description="Measure a model in this process, or any OpenAI-compatible server, and compare two of them.",
    )
    top.add_argument("--version", action="version", version=f"mlx-benchmark {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="measure one workload")
    sweep = commands.add_parser("sweep", help="measure every combination of lists of values")
    for one in (run, sweep):
        _add_target(one)
    compare = commands.add_parser("compare", help="measure two in turns, or compare two result files")
    _add_targets(compare)
    for one in (run, sweep, compare):
        _add_workload(one, one.prog.rpartition(" ")[2])
        _add_output(one)
    for one in (sweep, compare):
        one.add_argument(
            "--standard", action="store_true", help="the usual set of workloads instead of lists"
        )
    replay_arguments.add(commands, _add_target, _add_output)
    _add_files(commands)
    return top


def _add_target(one: argparse.ArgumentParser) -> None:
    what = one.add_mutually_exclusive_group()
    what.add_argument(
        "--url", default=DEFAULT_URL, help=f"the server ({DEFAULT_URL}); without a path, /v1 is added"
    )
    what.add_argument(
        "--engine",
        metavar="FOLDER",
        default="",
        help="a model folder or a model's name, loaded without any server",
    )
    one.add_argument(
        "--model", default="", help="the model's name on the server; not needed where it has one"
    )
    one.add_argument("--name", default="", help="how tables call it")
    one.add_argument(
        "--start", metavar="COMMAND", default="", help="start this server first and stop it at the end"
    )
    _add_access(one)


def _add_targets(one: argparse.ArgumentParser) -> None:
    for letter in "ab":
        one.add_argument(
            letter, metavar=letter.upper(), help="a server's URL, a model's folder or name, or a result file"
        )
    one.add_argument(
        "--rounds", type=_positive, default=5, help="how often each workload is measured on both (5)"
    )
    one.add_argument("--model", default="", help="the model's name on both servers")
    for letter in "ab":
        side = letter.upper()
        one.add_argument(f"--model-{letter}", metavar="MODEL", default="", help=f"the model's name on {side}")
        one.add_argument(f"--name-{letter}", metavar="NAME", default="", help=f"how tables call {side}")
        one.add_argument(
            f"--start-{letter}",
            metavar="COMMAND",
            default="",
            help=f"start {side} first and stop it at the end",
        )
        one.add_argument(f"--api-key-{letter}", metavar="KEY", default="", help=f"a key for {side} alone")
    _add_access(one)


def _add_access(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--api-key",
        metavar="KEY",
        default="",
        help=f"sent as a bearer token and stored nowhere; or set {KEY_VARIABLE}",
    )
    one.add_argument(
        "--tokenizer",
        metavar="FOLDER",
        default="",
        help="the model's folder: exact prompt lengths, and its hash in the result",
    )
    one.add_argument(
        "--start-timeout",
        metavar="SECONDS",
        type=float,
        default=300.0,
        help="how long a started server may take to answer (300)",
    )
    one.add_argument(
        "--engine-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of the engine, e.g. max_batch=8",
    )


def _add_workload(one: argparse.ArgumentParser, command: str) -> None:
    callers = DEFAULT_CONCURRENCY[command]
    group = one.add_argument_group("workload" if command == "run" else "workload; lists are comma-separated")
    shown = ",".join(map(str, callers))
    group.add_argument("-c", "--concurrency", metavar="N", type=_many(int), default=callers, help=f"callers at once ({shown})")  # fmt: skip
    for flag, metavar, kind, default, text in LISTS:
        group.add_argument(flag, metavar=metavar, type=_many(kind), default=(default,), help=text)
    for flag, metavar, kind, default, text in SINGLES:
        group.add_argument(flag, metavar=metavar, type=kind, default=default, help=text)
    group.add_argument(
        "--endpoint", choices=("chat", "completions"), default="chat", help="which API is asked (chat)"
    )
    group.add_argument(
        "--allow-eos", action="store_true", help="do not ask the server to go on until the longest answer"
    )


def _add_output(one: argparse.ArgumentParser) -> None:
    add = one.add_argument_group("results").add_argument
    add("--json", metavar="FILE", type=Path, help="write the result there too")
    add("--parquet", metavar="FILE", type=Path, help="write a row a request there")
    add(
        "--folder", metavar="FOLDER", type=Path, help="where results are kept (benchmarks in the data folder)"
    )
    add("--no-save", action="store_true", help="do not keep the result")
    add("--quiet", action="store_true", help="no progress")
    add("--allow-errors", action="store_true", help="exit with 0 although requests failed")


def _add_files(commands: Any) -> None:
    listing = commands.add_parser("list", help="the results that are kept")
    listing.add_argument(
        "--folder", metavar="FOLDER", type=Path, help="where they are kept (benchmarks in the data folder)"
    )
    show = commands.add_parser("show", help="the tables of result files")
    show.add_argument("files", metavar="FILE", type=Path, nargs="+")
    show.add_argument("--parquet", metavar="FILE", type=Path, help="write a row a request there")
    page = commands.add_parser("report", help="a Markdown page of result files")
    page.add_argument("files", metavar="FILE", type=Path, nargs="+")
    page.add_argument(
        "--out",
        metavar="PAGE",
        type=Path,
        help="the page; words around its generated part stay (standard output)",
    )
    page.add_argument("--intro", metavar="FILE", type=Path, help="the beginning of a new page")


# --- meanings ------------------------------------------------------------------------------------------------


def workloads(args: argparse.Namespace) -> tuple[Workload, ...]:
    """What the options ask for, concurrency moving fastest. Raises BenchmarkError."""
    base = Workload(
        endpoint=args.endpoint, requests=args.requests, duration=args.duration, cancel_after=args.cancel_after,
        rate=args.rate, warmup=args.warmup, timeout=args.timeout, seed=args.seed, ignore_eos=not args.allow_eos,
    )  # fmt: skip
    if getattr(args, "standard", False):
        return standard(base)
    axes = {name: getattr(args, name) for name in AXES}
    found = [one for how in args.sampling for one in matrix(msgspec.structs.replace(base, **how), **axes)]
    if args.command == "run" and len(found) > 1:
        raise BenchmarkError("`run` measures one workload; lists are for `sweep`.")
    return tuple(found)


def target(args: argparse.Namespace) -> Target:
    """What `run` and `sweep` measure. Raises BenchmarkError, ModelNotFound."""
    return Target(
        url="" if args.engine else args.url, engine=_folder(args.engine) if args.engine else "", model=args.model, name=args.name,
        tokenizer=args.tokenizer, options=_options(args.engine_option),
    )  # fmt: skip


def side(args: argparse.Namespace, letter: str) -> Target:
    """What A or B is: a URL, or a model by its folder or name. Raises BenchmarkError, ModelNotFound."""
    place = getattr(args, letter)
    if place.endswith(".json"):
        raise BenchmarkError("A result file can only be compared with another.")
    remote = place.startswith(("http://", "https://"))
    return Target(
        url=place if remote else "", engine="" if remote else _folder(place), tokenizer=args.tokenizer,
        model=getattr(args, f"model_{letter}") or args.model, name=getattr(args, f"name_{letter}"),
        options=_options(args.engine_option),
    )  # fmt: skip


def key(args: argparse.Namespace, letter: str = "") -> str:
    """The API key for a side: its own, the common one, or the environment's."""
    own = getattr(args, f"api_key_{letter}", "") if letter else ""
    return own or args.api_key or os.environ.get(KEY_VARIABLE, "")


def redacted(words: Sequence[str], *, inner: bool = False) -> str:
    """The command line as it may be kept: without keys, and without users and passwords in URLs.

    A word with spaces is read as a command of its own; `inner` says that this is one. In doubt more is hidden.
    """
    clean = []
    hide = False
    for word in words:
        clean.append("***" if hide else _clean(word, inner))
        name, equals, _ = word.partition("=")
        hide = not equals and bool(SECRET.search(name))
    return shlex.join(clean)


def _clean(word: str, inner: bool) -> str:
    spaced = bool(re.search(r"\s", word))
    name, equals, value = word.partition("=")
    if equals and re.fullmatch(r"-{0,2}[\w-]+", name) and (inner or not spaced or name.startswith("-")):
        return f"{name}={'***' if SECRET.search(name) else _clean(value, inner)}"
    if word.startswith(("http://", "https://")):
        return shown(word)
    try:
        return redacted(shlex.split(word), inner=True) if spaced else word
    except ValueError:
        return "***"


def _folder(place: str) -> str:
    """A model's folder, from itself or from the model's name. Raises ModelNotFound naming those there are."""
    if Path(place).expanduser().is_dir():
        return place
    return Shelf(models_folder(), cache=hub_cache()).find(place).path


def tokenizers(models: Iterable[str]) -> dict[str, str]:
    """The folders of those models that are on this machine and have a tokenizer."""
    shelf, found = Shelf(models_folder(), cache=hub_cache()), {}
    for model in models:
        with contextlib.suppress(ModelNotFound):
            folder = shelf.find(model).path
            if (Path(folder) / "tokenizer.json").is_file():
                found[model] = folder
    return found


def _options(given: Sequence[str]) -> EngineOptions:
    pairs = dict(word.partition("=")[::2] for word in given)
    try:
        return msgspec.convert(pairs, EngineOptions, strict=False)
    except msgspec.ValidationError as error:
        raise BenchmarkError(f"--engine-option: {error}.") from error


def _many(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def values(text: str) -> tuple[Any, ...]:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())

    return values


def _sampling(text: str) -> dict[str, float]:
    if text in ("greedy", "sampled"):
        return SAMPLED if text == "sampled" else {}
    temperature, _, top_p = text.partition(":")
    return {"temperature": float(temperature), "top_p": float(top_p or 1)}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


LISTS: tuple[Option, ...] = (
    ("--prompt-tokens", "N", int, USUAL.prompt_tokens, f"length of a prompt ({USUAL.prompt_tokens})"),
    ("--output-tokens", "N", int, USUAL.output_tokens, f"longest answer ({USUAL.output_tokens})"),
    ("--sampling", "HOW", _sampling, {}, "greedy, sampled (0.7:0.9), or TEMPERATURE:TOP_P (greedy)"),
    ("--shared-prefix", "SHARE", float, 0.0, "share of a prompt that all have in common, 0 to 1 (0)"),
    ("--cancel", "SHARE", float, 0.0, "share of callers who leave early, 0 to 1 (0)"),
)
SINGLES: tuple[Option, ...] = (
    ("--cancel-after", "N", int, USUAL.cancel_after, f"after so many pieces ({USUAL.cancel_after})"),
    ("--requests", "N", int, 0, "requests of a run (twice the callers, at least 8)"),
    ("--duration", "SECONDS", float, 0.0, "or how long it lasts"),
    ("--rate", "PER_SECOND", float, 0.0, "arrivals at random (Poisson) instead of callers who wait"),
    ("--warmup", "N", int, USUAL.warmup, f"requests before a run that do not count ({USUAL.warmup})"),
    ("--timeout", "SECONDS", float, USUAL.timeout, f"longest time of a request ({USUAL.timeout:g})"),
    ("--seed", "N", int, 0, "of prompts, arrivals and cancels (0)"),
)
