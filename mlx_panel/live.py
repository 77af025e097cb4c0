"""Settings changed while the server runs: kept, told to those that run, and given to those that start."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .errors import InvalidParameter, ModelLoadFailed, ModelNotFound, Unavailable
from .messages import Limit, LocalModel
from .pool.pool import ModelPool
from .pool.process import Worker, WorkerOptions
from .settings import LIVE_TIMEOUTS, Settings
from .tuning import EngineOptions


class LiveSettings:
    """The part of the Runtime that changes settings and starts workers with them."""

    settings: Settings
    folder: Path
    run: Path
    pool: ModelPool
    _changing: asyncio.Lock

    async def set_timeouts(self, values: dict[str, Any]) -> list[Limit]:
        """Change limits live and keep them, or change nothing. Raises InvalidParameter, and Unavailable for the disk."""
        await self._change(lambda: self.settings.change(values))
        return self.settings.timeouts()

    async def reset_timeouts(self) -> list[Limit]:
        await self._change(lambda: self.settings.reset(LIVE_TIMEOUTS))
        return self.settings.timeouts()

    async def set_options(self, values: dict[str, Any], model: str = "") -> None:
        """Change the engine's settings live, for every model or for one, and tell those that run. Raises like above.

        A draft model must be on this machine; so must the model.
        """
        for field, name in (("draft_model", values.get("draft_model")), (None, model)):
            if isinstance(name, str) and name:
                await self._demand(name, field)
        await self._change(lambda: self.settings.change_options(values, model))

    async def reset_options(self, model: str = "") -> None:
        await self._change(lambda: self.settings.reset_options(model))

    async def _demand(self, model: str, field: str | None) -> None:
        try:
            await self.pool.find(model)
        except ModelNotFound as error:
            if field is None:
                raise
            raise InvalidParameter(f"{field}: {error}", field=field) from error

    async def _change(self, change: Callable[[], None]) -> None:
        # One at a time, and no process is started meanwhile: it would have options of before.
        async with self._changing:
            before = self.settings.live
            change()
            try:
                await asyncio.to_thread(self.settings.save)
            except OSError as error:
                self.settings.restore(before)
                raise Unavailable(
                    f"The change could not be written to the data folder ({error.strerror}); nothing was changed."
                ) from error
            finally:
                await self._tune()

    async def _tune(self) -> None:
        """Tell every process what its engine's options are now."""
        for model in self.pool.running:
            try:
                options = await self._options(model)
            except ModelLoadFailed:
                options = self.settings.options_of(model)  # its next load will say what is missing
            self.pool.tune(model, options)

    async def forget(self, model: str) -> None:
        """Empty a model's prefix cache, memory and disk. Raises ModelNotFound for a model nothing is known of."""
        await self.pool.settle(model)
        async with self._changing:
            folder = self.settings.prefix_folder(self.folder, model)
            if self.pool.forget(model) or await asyncio.to_thread(_remove, folder):
                return
        await self.pool.find(model)

    async def _worker(self, model: LocalModel, on_exit: Callable[[Worker], None]) -> Worker:
        settings = self.settings
        async with self._changing:
            engine = await self._options(model.id)
            await asyncio.to_thread(
                _prepare, settings.prefix_folder(self.folder, model.id), engine.prefix_disk
            )
            options = WorkerOptions(
                logs=self.folder / "logs", run=self.run, engine=engine, load_timeout=settings.load_timeout_seconds,
                silence=settings.silence_seconds,
            )  # fmt: skip
            return Worker(model, options, on_exit)

    async def _options(self, model: str) -> EngineOptions:
        """What a model's engine is told. Raises ModelLoadFailed where its draft model is not on this machine."""
        options = self.settings.options_of(model)
        if not options.draft_model:
            return options
        try:
            draft = await self.pool.find(options.draft_model)
        except ModelNotFound as error:
            raise ModelLoadFailed(
                f"The model {model!r} cannot be loaded: its draft_model is missing. {error}"
            ) from error
        return msgspec.structs.replace(options, draft_model=draft.path)


def _prepare(folder: Path, wanted: str) -> None:
    """Make the folder of a model's prompts on disk; where there is to be none, delete what lies there. Blocks."""
    if wanted:
        for one in (folder.parent, folder):
            one.mkdir(mode=0o700, exist_ok=True)
    else:
        _remove(folder)


def _remove(folder: Path) -> bool:
    """Delete a folder with all it holds; False if it is not there. Blocks. Raises Unavailable where it cannot be."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unavailable(f"The prompts on disk could not be deleted ({error.strerror}).") from error
    return True
