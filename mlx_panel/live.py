"""Settings changed while the server runs: kept, told to those that run, and given to those that start."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .audit.retention import Retention
from .audit.store import AuditStore
from .audit_settings import AUDIT_EDITABLE
from .errors import Conflict, InvalidParameter, ModelLoadFailed, ModelNotFound, Unavailable
from .hub.shape import shape_from
from .messages import Limit, LocalModel
from .pool.pool import ModelPool
from .pool.process import WorkerOptions
from .pool.sizes import Sizes, recommended_memory
from .pool_settings import POOL, POOL_EDITABLE
from .presets import Presets
from .settings import LIVE_TIMEOUTS, Settings
from .sizing import Room, parse_limit, size
from .tuning import EngineOptions


class LiveSettings:
    """The part of the Runtime that changes settings and starts workers with them."""

    settings: Settings
    audit: AuditStore
    retention: Retention
    folder: Path
    run: Path
    pool: ModelPool
    presets: Presets
    sizes: Sizes
    recommended: int  # bytes that models may take together on this machine, as far as it says
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

        A draft model must be on this machine; so must the model. Raises Conflict for what a preset of the model decides.
        """
        for field, name in (("draft_model", values.get("draft_model")), (None, model)):
            if isinstance(name, str) and name:
                await self._demand(name, field)
        for name in self.presets.engine_of(model).keys() & values.keys():
            if values[name] is not None:
                raise Conflict(f"'{name}' of {model!r} is what its presets say; change it there.", field=name)
        await self._change(lambda: self.settings.change_options(values, model))

    async def reset_options(self, model: str = "") -> None:
        await self._change(lambda: self.settings.reset_options(model))

    async def set_hub(self, values: dict[str, Any]) -> None:
        """Change live how this server stands to the hub. Raises InvalidParameter, and Unavailable for the disk."""
        await self._change(lambda: self.settings.change_hub(values))

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
                self._configure()

    def _configure(self) -> None:
        """Tell the pool what its settings are now."""
        settings = self.settings
        self.pool.configure(
            needed=list(settings.models), silence_seconds=settings.silence_seconds,
            drain_seconds=settings.drain_timeout_seconds, **{name: getattr(settings, name) for name in POOL},
        )  # fmt: skip

    async def _tune(self) -> None:
        """Tell every process what its engine's options are now."""
        for model in self.pool.running:
            try:
                options = await self._options(model)
            except ModelLoadFailed:
                options = self._options_of(model)  # its next load will say what is missing
            self.pool.tune(model, options)

    async def forget(self, model: str) -> None:
        """Empty a model's prefix cache, memory and disk. Raises ModelNotFound for a model nothing is known of."""
        await self.pool.settle(model)
        async with self._changing:
            folder = self.settings.prefix_folder(self.folder, model)
            if self.pool.forget(model) or await asyncio.to_thread(_remove, folder):
                return
        await self.pool.find(model)

    async def forget_gone(self, model: str) -> None:
        """Delete the prompts on disk of a model whose files were deleted."""
        async with self._changing:
            await asyncio.to_thread(_remove, self.settings.prefix_folder(self.folder, model))

    async def set_pool_options(self, values: dict[str, Any]) -> None:
        """Change the pool's settings live and keep them, or change nothing. Raises like `set_timeouts`."""
        await self._change(lambda: self.settings.change_pool(values))

    async def reset_pool_options(self) -> None:
        await self._change(lambda: self.settings.reset(POOL_EDITABLE))

    async def set_audit_options(self, values: dict[str, Any]) -> None:
        """Change the audit log's settings live and keep them, or change nothing. Raises like `set_timeouts`."""
        await self._change(lambda: self.settings.change_audit(values))
        self.audit.soon(self.retention)

    async def reset_audit_options(self) -> None:
        await self._change(lambda: self.settings.reset(AUDIT_EDITABLE))
        self.audit.soon(self.retention)

    async def pin(self, model: str, pinned: bool) -> None:
        """Keep a model in memory, or let it go again; kept like any setting. Raises ModelNotFound."""
        if pinned:
            await self.pool.find(model)

        def change() -> None:
            others = [one for one in self.settings.pins if one != model]
            self.settings.change_pool({"pins": [*others, model] if pinned else others})

        await self._change(change)

    # --- what the pool asks ----------------------------------------------------------------------------------

    async def worker_options(self, model: LocalModel | None) -> WorkerOptions:
        """What a process is started with; None for one that waits for its model. Raises ModelLoadFailed."""
        settings = self.settings
        async with self._changing:
            engine = EngineOptions()
            if model is not None:
                engine = await self._options(model.id)
                folder = settings.prefix_folder(self.folder, model.id)
                await asyncio.to_thread(_prepare, folder, engine.prefix_disk)
            return WorkerOptions(
                logs=self.folder / "logs", run=self.run, engine=engine, load_timeout=settings.load_timeout_seconds,
                silence=settings.silence_seconds, watchdog=settings.watchdog_seconds,
            )  # fmt: skip

    def room(self, model: LocalModel) -> Room:
        """What a load of a model must have room for."""
        options = self._options_of(model.id)
        return self.settings.room(options, model.context_length, process=self.sizes.base)

    def needs(self, config: dict[str, Any], weights: int) -> int:
        """Bytes that a model of this config and weight would take, loaded like those here."""
        shape = shape_from(config, weights)
        model = LocalModel("", "", "", "", weights, shape.context_length, 0)
        return size(shape, self.room(model)).total

    def device(self, recommended: int) -> None:
        """A process has told what its GPU recommends for all models together, bytes; 0 where there is none."""
        if recommended:
            self.recommended = recommended_memory(recommended)

    def budget(self, limit: str) -> int:
        """A memory limit in bytes on this machine."""
        return parse_limit(limit, self.recommended)

    async def presets_changed(self, auto: set[str]) -> None:
        """The presets are others: `auto` are the models that from now on are to be loaded with the server."""
        async with self._changing:
            await self._tune()
            self._configure()
        for model in auto:
            self.pool.wish(model)

    def _options_of(self, model: str) -> EngineOptions:
        """The settings, and over them what the model's presets say of its caches."""
        return msgspec.structs.replace(self.settings.options_of(model), **self.presets.engine_of(model))

    async def _options(self, model: str) -> EngineOptions:
        """What a model's engine is told. Raises ModelLoadFailed where its draft model is not on this machine."""
        options = self._options_of(model)
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
