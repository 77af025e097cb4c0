"""Where a prompt's tokens are known, in memory and on disk, and the blocks that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .blocks import TOKEN_BYTES, Block, Snapshot, Tree, chained, shared
from .disk import DiskTier
from .files import Stored
from .folder import SNAPSHOT, Entry
from .layout import Layout


class Trail(NamedTuple):
    """How far a prompt is known: whole blocks in memory (`path`), then files of whole blocks (`ahead`), then `same`
    tokens of `near`, what goes on most like it. `left`: what is known goes on differently there.
    """

    path: list[Block]
    ahead: list[Entry]
    near: Block | Entry | None
    same: int
    left: bool


class Spot(NamedTuple):
    """A position with a snapshot, of a block in memory or in a file."""

    position: int
    source: Block | Entry


class Found(NamedTuple):
    """Blocks that hold the first `length` tokens (the last one may hold more), and the snapshot there.

    The prompt shares its first `shared` tokens with the nearest entry; `left` as in `Trail`. `disk` says whether files
    were read.
    """

    path: list[Block]
    length: int
    snapshot: Snapshot | None
    disk: bool
    shared: int
    left: bool


class Search:
    """Looks prompts up. `kinds` are the class names of the model's caches, `layout` that of its blocks once known."""

    def __init__(self, tree: Tree, disk: DiskTier | None, kinds: Sequence[str]):
        self.layout: Layout | None = None
        self._tree, self._disk, self._kinds = tree, disk, list(kinds)
        self._block = tree.size // TOKEN_BYTES

    def __repr__(self) -> str:
        return f"<Search {self._tree!r}, {self._disk!r}>"

    def longest(self, data: bytes, limit: int) -> Found:
        """The most of the first `limit` tokens of `data` (packed) that blocks hold."""
        trail = self._trail(data)
        path, disk = self._whole(trail, -(-limit // self._block))
        length = len(path) * self._block
        if len(path) == len(trail.path) + len(trail.ahead) and length < limit and trail.near is not None:
            near = trail.near if isinstance(trail.near, Block) else self._read_block(trail.near, path)
            if near is not None:
                path.append(near)
                length, disk = length + trail.same, disk or near is not trail.near
        return self._found(trail, path, max(min(length, limit), 0), None, disk)

    def snapshot(self, data: bytes, limit: int) -> Found:
        """The last position not after `limit` with a snapshot, that snapshot and the blocks before it."""
        trail = self._trail(data)
        for spot in self._spots(trail, data, limit):
            count = spot.position // self._block
            path, disk = self._whole(trail, count)
            held = self._open(spot, path) if len(path) == count else None
            if held is not None:
                disk = disk or isinstance(spot.source, Entry)
                return self._found(trail, path, spot.position, held, disk)
        return self._found(trail, trail.path, 0, None, False)

    def _found(
        self, trail: Trail, path: list[Block], length: int, held: Snapshot | None, disk: bool
    ) -> Found:
        known = (len(trail.path) + len(trail.ahead)) * self._block + trail.same
        return Found(path, length, held, disk, known, trail.left)

    # --- how far -------------------------------------------------------------------------------------------------

    def _trail(self, data: bytes) -> Trail:
        path = self._tree.walk(data)
        node = path[-1] if path else self._tree.root
        ahead = self._ahead(data, len(path), node.digest)
        rest = data[(len(path) + len(ahead)) * self._tree.size :]
        near, same, more = self._continuation(node, ahead, rest)
        return Trail(path, ahead, near, same, more and same * TOKEN_BYTES < len(rest))

    def _ahead(self, data: bytes, done: int, digest: bytes) -> list[Entry]:
        ahead: list[Entry] = []
        size = self._tree.size
        for at in range(done * size, len(data) - size + 1, size) if self._disk is not None else ():
            digest = chained(digest, data[at : at + size])
            entry = self._disk.entry(digest) if self._disk is not None else None
            if entry is None:
                break
            ahead.append(entry)
        return ahead

    def _continuation(
        self, node: Block, ahead: list[Entry], rest: bytes
    ) -> tuple[Block | Entry | None, int, bool]:
        """What goes on most like `rest`, how many tokens of it are the same, and whether one such has more."""
        known: list[tuple[Block | Entry, bytes]] = []
        if not ahead:
            known += [(block, block.tokens) for block in node.following()]
        if self._disk is not None:
            known += self._disk.after(ahead[-1].digest if ahead else node.digest)
        near, same, more = None, 0, False
        for source, tokens in known:
            alike = shared(tokens, rest)
            if alike > same:
                near, same, more = source, alike, False
            more = more or (alike == same and alike * TOKEN_BYTES < len(tokens))
        return near, same, more

    def _spots(self, trail: Trail, data: bytes, limit: int) -> list[Spot]:
        """Where there are snapshots, the last position first and memory before disk."""
        spots = [Spot(block.end, block) for block in trail.path if block.snapshot is not None]
        for node in (self._tree.root, *trail.path):
            for tail in node.tails.values():
                if tail.snapshot is not None and data.startswith(tail.tokens, node.end * TOKEN_BYTES):
                    spots.append(Spot(tail.end, tail))
        if self._disk is not None:
            spots += self._spots_on_disk(self._disk, trail, data)
        return sorted((spot for spot in spots if spot.position <= limit), key=lambda spot: -spot.position)

    def _spots_on_disk(self, disk: DiskTier, trail: Trail, data: bytes) -> list[Spot]:
        digests = [
            self._tree.root.digest,
            *(block.digest for block in trail.path),
            *(entry.digest for entry in trail.ahead),
        ]
        spots = []
        for index, digest in enumerate(digests):
            whole, at = disk.entry(digest, SNAPSHOT), index * self._block
            if whole is not None:
                spots.append(Spot(at, whole))
            for entry in disk.tails(digest, self._block):
                tokens = data[at * TOKEN_BYTES : (at + entry.tokens) * TOKEN_BYTES]
                if chained(digest, tokens) == entry.digest:
                    spots.append(Spot(at + entry.tokens, entry))
        return spots

    # --- from disk to memory ---------------------------------------------------------------------------------------

    def _whole(self, trail: Trail, count: int) -> tuple[list[Block], bool]:
        """The first `count` whole blocks, or as many as can be had, and whether files were read for them."""
        path = trail.path[: max(count, 0)]
        known = len(path)
        for entry in trail.ahead[: max(count - len(trail.path), 0)]:
            block = self._read_block(entry, path)
            if block is None:
                break
            path.append(block)
        return path, len(path) > known

    def _open(self, spot: Spot, path: list[Block]) -> Snapshot | None:
        """The snapshot at a spot; a tail it belongs to is added to the path."""
        if isinstance(spot.source, Block):
            if spot.source.tail:
                path.append(spot.source)
            return spot.source.snapshot
        stored = self._read(spot.source)
        if stored is None:
            return None
        if spot.source.tokens < self._block:
            path.append(self._hang(stored, path))
        held = Snapshot(stored.spec, stored.state)
        end = path[-1]
        if end.snapshot is None and self._tree.fits(path, held.nbytes):
            self._tree.attach(end, held)
        return held

    def _read_block(self, entry: Entry, path: list[Block]) -> Block | None:
        stored = self._read(entry)
        return self._hang(stored, path) if stored is not None else None

    def _hang(self, stored: Stored, path: list[Block]) -> Block:
        """A block read from disk, in the tree if there is room, else for this once."""
        parent = path[-1] if path else self._tree.root
        block = Block(parent, stored.tokens, stored.arrays, tail=len(stored.tokens) < self._tree.size)
        # A path that fits is in the tree, block for block.
        if self._tree.fits(path, block.nbytes):
            self._tree.add(block)
        return block

    def _read(self, entry: Entry) -> Stored | None:
        """A file's content if it fits this model's caches."""
        stored = self._disk.load(entry) if self._disk is not None else None
        if stored is None or self._disk is None:
            return None
        if self.layout is None and [leaf.kind for leaf in stored.layout.leaves] == self._kinds:
            self.layout = stored.layout
        if stored.layout != self.layout:
            self._disk.refuse(entry, "it has another layout")
            return None
        return stored
