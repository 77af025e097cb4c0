"""The process that makes the load on a server: `python -m mlx_panel.bench.url_process`. It never imports mlx."""

from __future__ import annotations

import asyncio
import sys

from .load import Load
from .prompts import open_tokenizer
from .records import TargetInfo, Workload
from .urls import ServerSide
from .wire import Job, Measured, Tell, main


class UrlProcess:
    """A server as a `Side`: one loop for the life of the process, so that connections are kept."""

    def __init__(self, job: Job):
        self._tokenizer = open_tokenizer(job.target.tokenizer)
        self._server = ServerSide(job.target, job.key)
        self._first, self._past = job.first, job.past
        self._runner = asyncio.Runner()

    def __repr__(self) -> str:
        return f"<UrlProcess {self._server}>"

    def open(self) -> TargetInfo:
        return self._runner.run(self._server.open(self._first))

    def measure(self, workload: Workload, tell: Tell) -> Measured:
        load = Load(self._server, workload, self._tokenizer, tell, self._past)
        run = self._runner.run(load.run())
        return Measured(run, load.messages())

    def close(self) -> None:
        self._server.close()
        self._runner.close()


if __name__ == "__main__":
    sys.exit(main(UrlProcess))
