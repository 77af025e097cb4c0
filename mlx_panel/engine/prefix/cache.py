"""The prefix cache of one model: find the longest known beginning of a prompt, store what was computed.

Prompts are cut into blocks of tokens, each chained to what went before, as in the prefix caching of vLLM (Kwon et al.
2023, arXiv:2309.06180); requests that begin alike share the blocks of their beginning, whoever sent them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from ...tuning import CacheFigures, CacheTier
from .blocks import Block, Snapshot, Tree, pack
from .disk import DiskTier
from .folder import BLOCK, SNAPSHOT
from .key import ModelKey
from .layout import cut, is_cut, join, layout, leaves
from .search import Found, Search
from .states import restore, snapshot

log = logging.getLogger(__name__)

# Restoring fewer tokens than this costs more than it saves.
LEAST = 16
# Snapshots along a long prompt: at least so many tokens apart, at most so many of them.
COARSE, MOST = 1024, 8
# What a template writes after the last message, at most; the next turn may have something else there.
GENERATION_PROMPT = 16


class Match(NamedTuple):
    """What is known of a prompt.

    `caches` hold its first `tokens` tokens (None for 0) and belong to the caller. The prompt shares its first
    `nearest` tokens with the nearest entry (None: with no entry); with `left`, that entry goes on differently there.
    """

    tokens: int
    caches: list[Any] | None
    tier: CacheTier
    nearest: int | None
    left: bool = False


class PrefixCache:
    """What one model computed for earlier prompts; `budget` is bytes of memory, 0 keeps nothing there.

    `make_cache` gives the model's empty caches for one sequence. The object belongs to the thread that uses mlx.
    A model with `snapshots` has layers that cannot be cut by token: it is found again only at positions where `store`
    was called.
    """

    def __init__(
        self,
        key: ModelKey,
        make_cache: Callable[[], list[Any]],
        *,
        budget: int,
        disk: DiskTier | None = None,
        block: int = 64,
        least: int = LEAST,
    ):
        self.key, self.disk, self.block = key, disk, block
        self._make_cache, self._least = make_cache, least
        fresh = leaves(make_cache())
        self.snapshots = not all(map(is_cut, fresh))
        self._tree = Tree(block, budget)
        self._search = Search(self._tree, disk, [type(leaf).__name__ for leaf in fresh])
        self._unsaved: deque[Block] = deque()
        self._snapshot_bytes = 0
        self._lookups = self._hits = self._asked = self._cached = 0

    def __repr__(self) -> str:
        return f"<PrefixCache {self._tree!r}, {self._hits} of {self._lookups} lookups hit>"

    # --- find ----------------------------------------------------------------------------------------------------

    def find(self, tokens: Sequence[int]) -> Match:
        """The longest reusable beginning of a prompt: at most all but its last token, which has to be computed."""
        self.flush()
        data, limit = pack(tokens), len(tokens) - 1
        found = self._search.snapshot(data, limit) if self.snapshots else self._search.longest(data, limit)
        length = found.length if found.length >= self._least else 0
        caches = self._restored(found, len(tokens)) if length else None
        self._tree.touch(found.path, found.snapshot)
        self._tree.trim()
        self._mark(found)
        self._lookups += 1
        self._hits += length > 0
        self._asked += len(tokens)
        self._cached += length
        tier: CacheTier = ("disk" if found.disk else "memory") if length else "none"
        return Match(length, caches, tier, found.shared or None, found.left)

    def _restored(self, found: Found, room: int) -> list[Any]:
        """Caches filled with what was found; one copy of each layer, none of it shared with the store."""
        caches = self._make_cache()
        fresh = leaves(caches)
        made: list[mx.array] = []
        if self._search.layout is not None:
            pieces = [block.arrays for block in found.path]
            made = join(fresh, self._search.layout, pieces, found.length, room)
        if found.snapshot is not None:
            uncut = [leaf for leaf in fresh if not is_cut(leaf)]
            restore(uncut, found.snapshot.spec, found.snapshot.arrays)
        mx.async_eval(made)
        return caches

    def _mark(self, found: Found) -> None:
        if self.disk is not None and found.path and found.length:
            self.disk.used(found.path[-1].digest)
            if found.snapshot is not None:
                self.disk.used(found.path[-1].digest, SNAPSHOT)

    # --- store ---------------------------------------------------------------------------------------------------

    def stops(self, tokens: Sequence[int], ends: Sequence[int] = ()) -> list[int]:
        """Positions at which a prefill should stop for `store`; none for a model whose caches can be cut anywhere.

        `ends` are the ends of the prompt's messages, where known: after the first one (what conversations share) and
        the last two (where this one goes on, and where it does if the last message is written anew).
        """
        if not self.snapshots:
            return []
        last = len(tokens) - 1
        wanted = {*ends[:1], *ends[-2:]} if ends else {last - GENERATION_PROMPT}
        step = COARSE
        while last // step > MOST:
            step *= 2
        if self._snapshot_bytes * 2 * MOST <= self.budget:
            wanted.update(range(step, last, step))
        return sorted(position for position in wanted if self._least <= position <= last)

    def wants(self, position: int, stored: int, stops: Sequence[int] = ()) -> bool:
        """Whether `store` at this position is worth its while, the first `stored` tokens being stored.

        A model with `snapshots` wants them at its `stops()` and after them, not wherever a chunk of a prefill ends.
        """
        if not self.snapshots:
            return position - stored >= self._least
        due = position in stops or position > max(stops, default=0)
        return due and position - stored > GENERATION_PROMPT

    def store(self, tokens: Sequence[int], caches: Sequence[Any]) -> None:
        """Keep what `caches` hold, which are the states after exactly these tokens.

        Only what is not known yet is copied, and lazily: the copies are computed with the next step. A model with
        `snapshots` gets one at this position, which can be large: call it for `stops()` and the end of an answer.
        Raises ValueError when the caches hold another number of tokens.
        """
        self.flush()
        flat = leaves(caches)
        self._learn(flat, len(tokens))
        data = pack(tokens)
        path = self._tree.walk(data)
        new = self._grow(path, data, flat)
        held = None
        if len(path) * self.block + self.block > len(tokens):
            new += self._tail(path, data, flat)
            if self.snapshots and path and path[-1].end == len(tokens):
                held = self._snapshot(path, flat, new)
        self._tree.touch(path, held)
        self._tree.trim()
        mx.async_eval([array for entry in new if entry in self._tree for array in entry.arrays])
        if self.disk is not None:
            self._unsaved.extend(block for block in path if block in self._tree)

    def _learn(self, flat: Sequence[Any], length: int) -> None:
        for leaf in flat:
            if getattr(leaf, "offset", length) != length and not leaf.empty():
                raise ValueError(f"the caches hold {leaf.offset} tokens, not {length}")
        found = layout(flat)
        if self._search.layout not in (None, found):
            log.warning("the model's caches have changed: the prefix cache starts anew")
            self._forget()
        self._search.layout = found

    def _grow(self, path: list[Block], data: bytes, flat: Sequence[Any]) -> list[Block | Snapshot]:
        """Add the whole blocks that are missing to the path and to the tree, as far as the budget goes."""
        new: list[Block | Snapshot] = []
        for at in range(len(path) * self._tree.size, len(data) - self._tree.size + 1, self._tree.size):
            start = len(path) * self.block
            if not self._add(path, data[at : at + self._tree.size], flat, start + self.block):
                break
            new.append(path[-1])
        return new

    def _tail(self, path: list[Block], data: bytes, flat: Sequence[Any]) -> list[Block | Snapshot]:
        """Add what is left after the last whole block, unless something in memory holds it already."""
        rest = data[len(path) * self._tree.size :]
        node = path[-1] if path else self._tree.root
        known = node.tails.get(rest)
        if not rest or known is not None:
            path += [known] if known is not None else []
            return []
        if not self.snapshots and any(block.tokens.startswith(rest) for block in node.following()):
            return []
        return [path[-1]] if self._add(path, rest, flat, len(data) // 4) else []

    def _add(self, path: list[Block], tokens: bytes, flat: Sequence[Any], end: int) -> bool:
        parent = path[-1] if path else self._tree.root
        assert self._search.layout is not None
        arrays = cut(flat, self._search.layout, parent.end, end)
        block = Block(parent, tokens, arrays, tail=len(tokens) < self._tree.size)
        if not self._tree.fits(path, block.nbytes):
            return False
        self._tree.add(block)
        self._tree.supersede(block)
        path.append(block)
        return True

    def _snapshot(
        self, path: list[Block], flat: Sequence[Any], new: list[Block | Snapshot]
    ) -> Snapshot | None:
        end = path[-1]
        if end.snapshot is None:
            held = snapshot([leaf for leaf in flat if not is_cut(leaf)])
            self._snapshot_bytes = held.nbytes
            if not self._tree.fits(path, held.nbytes):
                return None
            self._tree.attach(end, held)
            new.append(held)
        return end.snapshot

    # --- upkeep --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand what was stored last time, computed by now, to the disk tier's writer. Call it also when idle."""
        while self.disk is not None and self._unsaved:
            block = self._unsaved.popleft()
            if block in self._tree and not self._saved(self.disk, block):
                self._unsaved.clear()

    def _saved(self, disk: DiskTier, block: Block) -> bool:
        """Write what is not on disk of a block. False if the writer has enough to do, or lacks the block before."""
        known = self._search.layout
        if known is None:
            return False
        if not block.tail and not disk.knows(block.digest) and not disk.save(block, known):
            return False
        held = block.snapshot
        return held is None or disk.knows(block.digest, SNAPSHOT) or disk.save(block, known, held)

    def doubt(self, prompts: Iterable[Sequence[int]]) -> None:
        """Forget, of what these prompts could be restored from, all that holds a value that is no number."""
        nodes = [self._tree.root, *(block for tokens in prompts for block in self._tree.walk(pack(tokens)))]
        for block in [block for node in nodes for block in node.following()]:
            if block in self._tree and not _is_sound(block):
                for one in self._tree.prune(block):
                    self._refuse(one)

    def _refuse(self, block: Block) -> None:
        for sort in (BLOCK, SNAPSHOT):
            entry = self.disk.entry(block.digest, sort) if self.disk is not None else None
            if self.disk is not None and entry is not None:
                self.disk.refuse(entry, "it holds or follows values that are no numbers")

    @property
    def budget(self) -> int:
        return self._tree.budget

    @budget.setter
    def budget(self, room: int) -> None:
        self._tree.budget = room
        self._tree.trim()

    @property
    def figures(self) -> CacheFigures:
        """Bytes and counts since the start; those of the running requests' own caches are left at 0."""
        disk = self.disk
        return CacheFigures(
            bytes=self._tree.bytes,
            budget=self.budget,
            blocks=self._tree.count,
            disk_bytes=disk.nbytes if disk else 0,
            disk_budget=disk.budget if disk else 0,
            disk_blocks=disk.blocks if disk else 0,
            lookups=self._lookups,
            hits=self._hits,
            tokens_asked=self._asked,
            tokens_cached=self._cached,
            evicted=self._tree.evicted,
            refused=disk.refused if disk else 0,
        )

    def clear(self) -> None:
        """Forget everything, in memory and this model's files."""
        self._forget()
        if self.disk is not None:
            self.disk.clear()

    def close(self, timeout: float = 10.0) -> None:
        """Write what is left to write, waiting `timeout` seconds at most, and forget everything in memory."""
        self.flush()
        self._forget()
        if self.disk is not None:
            self.disk.close(timeout)

    def _forget(self) -> None:
        self._unsaved.clear()
        self._tree.clear()


def _is_sound(block: Block) -> bool:
    """Whether all that a block holds, its snapshot too, are finite numbers."""
    held = [*block.arrays, *(block.snapshot.arrays if block.snapshot is not None else ())]
    return all(mx.isfinite(array).all().item() for array in held)
