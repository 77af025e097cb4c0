"""`mlx-panel serve`: Panel's own server with the API beside the dashboard, on one port and one loop."""

from __future__ import annotations

import argparse
import contextlib
import gc
import ipaddress
import logging
import sys
from typing import Any

import panel as pn
import param
from bokeh.application.handlers.function import FunctionHandler
from bokeh.command.subcommand import Argument
from bokeh.server.server import Server
from panel.command.serve import Serve
from panel.io.application import Application
from panel.io.state import set_curdoc
from tornado.httpclient import AsyncHTTPClient, HTTPError

from .app import Runtime
from .dashboard import pages
from .dashboard.local import Local
from .engine_settings import EDITABLE
from .errors import MlxPanelError, SettingsError
from .http.fallback import Fallback
from .http.house import FindHouse
from .plugin import KEY, ROUTES, started
from .pool_settings import POOL
from .settings import Settings

log = logging.getLogger(__name__)
FLAGS = (*EDITABLE, *POOL)  # settings with a flag of their own name
FIRST_PAGES = tuple(pages.PAGES)  # those that are asked for at start
REFUSE_OPEN = """\
{host} can be reached from other machines, and this version knows no users or keys: anybody there could use the models.
Listen on this machine only and reach it through a tunnel, from the other machine:
    ssh -N -L {port}:127.0.0.1:{port} {user}@THIS-MACHINE"""
REFUSE_PROCESSES = """\
--num-procs must be 1: each further process would load its own copy of every model and write the same audit file.
A model runs in a process of its own already; requests to one model are batched there."""


def _argument(name: str) -> Argument:
    """A flag for a setting of the engine; its value is checked where all settings are."""
    kind = Settings.param[name]
    choices = ["true", "false"] if isinstance(kind, param.Boolean) else getattr(kind, "objects", None)
    default = (
        ",".join(kind.default) if isinstance(kind.default, list) else str(kind.default).lower() or "none"
    )
    metavar = "{" + ",".join(map(str, choices)) + "}" if choices else name.rpartition("_")[2].upper()
    words = f"{kind.doc} ({default})".replace("%", "%%")  # argparse fills in help texts
    return Argument(metavar=metavar, type=str, default=None, help=words)


class MlxServe(Serve):
    """Panel's serve with the settings of a start and of the engine. Without files it serves the dashboard at /."""

    name = "serve"
    help = "start the server and the dashboard"
    args = (
        *((flag, spec) for flag, spec in Serve.args if flag not in ("--port", "--address")),
        (
            "--port",
            Argument(
                metavar="PORT", type=int, default=None, help="Port to listen on (10242; 0 takes a free one)"
            ),
        ),
        (
            "--address",
            Argument(metavar="ADDRESS", type=str, default=None, help="Address to listen on (127.0.0.1)"),
        ),
        (
            "--model",
            Argument(
                metavar="MODEL",
                action="append",
                default=None,
                help="Model to load at start; may be given several times",
            ),
        ),
        (
            "--drain-timeout",
            Argument(
                metavar="SECONDS",
                type=float,
                default=None,
                help="How long requests may go on when the server stops (30)",
            ),
        ),
        *((f"--{name.replace('_', '-')}", _argument(name)) for name in FLAGS),
    )

    def invoke(self, args: argparse.Namespace) -> None:
        if args.num_procs != 1:
            sys.exit(REFUSE_PROCESSES)
        settings = Settings.load(
            {
                "port": args.port,
                "host": args.address,
                "models": args.model,
                "drain_timeout_seconds": args.drain_timeout,
                **{name: getattr(args, name) for name in FLAGS},
            }
        )
        check_address(settings)
        self.runtime = pn.state.cache[KEY] = Runtime(settings)
        self.runtime.open()
        _complete(args, settings)
        try:
            super().invoke(args)
        finally:
            gc.unfreeze()
            pn.state.cache.pop(KEY, None)
            self.runtime.close()

    def customize_applications(self, args: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
        given = super().customize_applications(args, given)
        return given if args.files else applications(self.runtime)

    def customize_kwargs(self, args: argparse.Namespace, server_kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs = super().customize_kwargs(args, server_kwargs)
        kwargs["extra_patterns"] = [*kwargs.get("extra_patterns", []), *ROUTES]
        return kwargs

    def customize_server(self, server: Server) -> Server:
        server = super().customize_server(server)
        adopt(server, self.runtime)
        return server


def adopt(server: Server, runtime: Runtime) -> None:
    """Give a Bokeh server all our manners: a drain on signals and a word of welcome too."""
    settle(server, started)
    server.io_loop.add_callback(_begin, server, runtime)


def settle(server: Server, find: FindHouse) -> None:
    """Problem documents for unknown paths, and pages that open under both of this machine's names for itself."""
    logging.getLogger("bokeh.server.views.ws").addFilter(_is_news)
    server._tornado.settings.update(default_handler_class=Fallback, default_handler_args={"house": find})
    server._tornado.websocket_origins.update(f"{name}:{server.port}" for name in ("localhost", "127.0.0.1"))


def _is_news(record: logging.LogRecord) -> bool:
    """A page that is closed while it is written to is none."""
    return record.msg != "Failed sending message as connection was closed"


async def _begin(server: Server, runtime: Runtime) -> None:
    await started()
    url = f"http://{server.address or 'localhost'}:{server.port}{server.prefix}"
    runtime.url = url
    await _warm(url)
    gc.collect()
    gc.freeze()  # what start-up made stays; looking through it again and again would stall the loop
    print(welcome(url, runtime), flush=True)


async def _warm(url: str) -> None:
    """Ask for each page once: the first one reads scripts and styles, which no stream should have to wait for."""
    with contextlib.suppress(OSError, HTTPError):
        for path in FIRST_PAGES:
            await AsyncHTTPClient().fetch(f"{url}{path}", raise_error=False)


def applications(runtime: Runtime) -> dict[str, Any]:
    """The pages of the dashboard, for a Bokeh server on the Runtime's loop."""
    return {path: Application(FunctionHandler(_builder(runtime, path))) for path in pages.PAGES}


def _builder(runtime: Runtime, path: str) -> Any:
    def build(document: Any) -> None:
        with set_curdoc(document):  # for the cookie that remembers the theme
            page = pages.build(Local(runtime), path)
        page.server_doc(document, title=pages.title(path))

    return build


def check_address(settings: Settings) -> None:
    """Refuse to listen where others can reach an API without keys. Raises SettingsError with the way out."""
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    if not loopback:
        raise SettingsError(
            REFUSE_OPEN.format(host=settings.host or "0.0.0.0", port=settings.port, user="you"), field="host"
        )


def _complete(args: argparse.Namespace, settings: Settings) -> None:
    args.port, args.address = settings.port, settings.host
    if args.allow_websocket_origin is None and settings.port:
        args.allow_websocket_origin = [f"{host}:{settings.port}" for host in ("localhost", "127.0.0.1")]
    logging.getLogger("mlx_panel").setLevel(settings.log_level.upper())
    # Bokeh tells of every page and socket it opens; a path in Tornado's access log may hold anything.
    args.log_level = args.log_level or {"info": "warning"}.get(settings.log_level, settings.log_level)
    logging.getLogger("tornado.access").setLevel(logging.ERROR)


def welcome(url: str, runtime: Runtime) -> str:
    """The server's address and three things to try."""
    model = next(iter(runtime.settings.models), None) or next(
        (state.id for state in runtime.sampler.now.models), "MODEL"
    )
    body = f'{{"model": "{model}", "temperature": 0, "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'
    return f"""
mlx-panel is running.   Dashboard   {url}
                        API         {url}/v1
                        BLAS        {runtime.blas.name}{"" if runtime.blas.fast else "   (slow: " + runtime.blas.fix + ")"}
Try it:
  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'
  pip install openai; python -c "from openai import OpenAI; c = OpenAI(base_url='{url}/v1', api_key='none'); print(c.chat.completions.create(model='{model}', temperature=0, messages=[dict(role='user', content='Hello!')]).choices[0].message.content)"
  in a notebook:  import mlx_panel; panel = mlx_panel.connect('{url}'); panel.overview
Ctrl-C stops it."""


def run(argv: list[str]) -> int:
    """Parse the command line of `mlx-panel serve` and serve. Returns the exit status."""
    from panel.command import transform_cmds

    parser = argparse.ArgumentParser(
        prog="mlx-panel serve", description=MlxServe.help, formatter_class=argparse.RawTextHelpFormatter
    )
    command = MlxServe(parser=parser)
    try:
        command.invoke(parser.parse_args(transform_cmds(argv)))
    except MlxPanelError as error:
        print(f"mlx-panel: {error}", file=sys.stderr)
        return 1
    return 0
