"""Token blocks in memory: a tree whose paths are the known prompts, and the order in which they are forgotten."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

TOKEN_BYTES = 4
# What a block costs beside its arrays: Python objects, roughly.
OVERHEAD = 512
# The digest of "no tokens yet".
ROOT = bytes(16)


def pack(tokens: Sequence[int]) -> bytes:
    """Token ids as the bytes by which blocks are compared: 4 a token."""
    return array("I", tokens).tobytes()


def unpack(tokens: bytes) -> list[int]:
    return array("I", tokens).tolist()


def chained(parent: bytes, tokens: bytes) -> bytes:
    """The digest of a block: of its tokens and, through its parent's digest, of all tokens before."""
    return hashlib.blake2b(parent + tokens, digest_size=16).digest()


def shared(left: bytes, right: bytes) -> int:
    """How many tokens two packed sequences have in common at their start."""
    low, high = 0, min(len(left), len(right)) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if left[: middle * TOKEN_BYTES] == right[: middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low


class Snapshot:
    """The state of all layers that cannot be cut by token, at one position; `spec` says how `arrays` make it up."""

    def __init__(self, spec: str, arrays: Sequence[Any]):
        self.spec, self.arrays = spec, tuple(arrays)
        self.block: Block | None = None
        self.nbytes = sum(array.nbytes for array in self.arrays) + len(spec) + OVERHEAD

    def __repr__(self) -> str:
        return f"<Snapshot at {self.block.end if self.block else '?'}, {self.nbytes} bytes>"


class Block:
    """Some tokens after those of `parent`, with the slices of every layer that can be cut by token.

    A whole block has the tree's block size and may be continued (`children`); a shorter one is a tail of its parent.
    `arrays` holds one array per group of the layout, (rows, batch 1, heads, tokens, width).
    """

    def __init__(
        self, parent: Block | None, tokens: bytes, arrays: Sequence[Any] = (), *, tail: bool = False
    ):
        self.tail = tail
        self.parent, self.tokens, self.arrays = parent, tokens, tuple(arrays)
        self.digest: bytes = chained(parent.digest, tokens) if parent is not None else ROOT
        self.start: int = parent.end if parent is not None else 0
        self.end: int = self.start + len(tokens) // TOKEN_BYTES
        self.nbytes = sum(array.nbytes for array in self.arrays) + len(tokens) + OVERHEAD
        self.children: dict[bytes, Block] = {}
        self.tails: dict[bytes, Block] = {}
        self.snapshot: Snapshot | None = None

    def __repr__(self) -> str:
        return f"<Block {self.start}-{self.end}, {self.nbytes} bytes, {len(self.children)} children>"

    def following(self) -> Iterable[Block]:
        yield from self.children.values()
        yield from self.tails.values()


class Tree:
    """All blocks in memory, never more than `budget` bytes of them; the least recently used go first.

    Whoever uses a block uses its parents too, and they are marked as used after it, so the oldest entry never has a
    child. A snapshot is an entry of its own: it can go while the block it belongs to stays.
    """

    def __init__(self, block: int, budget: int):
        self.size = block * TOKEN_BYTES
        self.budget = budget
        self.bytes = self.count = self.evicted = 0
        self.root = Block(None, b"")
        self._recent: OrderedDict[Block | Snapshot, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Tree {self.count} blocks, {self.bytes} of {self.budget} bytes>"

    def walk(self, data: bytes) -> list[Block]:
        """The whole blocks that `data` begins with, from the first on."""
        path, node = [], self.root
        for at in range(0, len(data) - self.size + 1, self.size):
            child = node.children.get(data[at : at + self.size])
            if child is None:
                break
            path.append(child)
            node = child
        return path

    def fits(self, path: Sequence[Block], more: int) -> bool:
        """Whether a path could be held whole with `more` bytes, were all others forgotten."""
        return sum(block.nbytes for block in path) + more <= self.budget

    def add(self, block: Block) -> None:
        """Hang a block on its parent, which must be in the tree. `touch` and `trim` come afterwards."""
        _siblings(block)[block.tokens] = block
        self._enter(block)
        self.count += 1

    def supersede(self, block: Block) -> None:
        """Take out the tails that a new block begins with; one with a snapshot stays."""
        tails = block.parent.tails if block.parent is not None else {}
        for tail in [
            tail for tail in tails.values() if tail is not block and block.tokens.startswith(tail.tokens)
        ]:
            if tail.snapshot is None:
                self.remove(tail)

    def attach(self, block: Block, snapshot: Snapshot) -> None:
        block.snapshot, snapshot.block = snapshot, block
        self._enter(snapshot)

    def touch(self, path: Sequence[Block], snapshot: Snapshot | None = None) -> None:
        """Mark a path, and a snapshot at its end, as just used. Blocks that are not in the tree are skipped."""
        for entry in ([snapshot] if snapshot is not None else []) + list(reversed(path)):
            if entry in self._recent:
                self._recent.move_to_end(entry)

    def trim(self) -> None:
        """Forget what was used longest ago until the budget is kept."""
        while self.bytes > self.budget and self._recent:
            self.remove(next(iter(self._recent)))
            self.evicted += 1

    def remove(self, entry: Block | Snapshot) -> None:
        """Take out a snapshot, or a block without children together with its snapshot."""
        if isinstance(entry, Snapshot):
            self._leave(entry)
            block = entry.block
            if block is not None:
                block.snapshot = entry.block = None
                if block.tail:
                    # A tail beside a snapshot is of no use without it.
                    self.remove(block)
            return
        held = entry.snapshot
        if held is not None:
            self._leave(held)
            entry.snapshot = held.block = None
        _siblings(entry).pop(entry.tokens, None)
        self._leave(entry)
        self.count -= 1

    def prune(self, block: Block) -> list[Block]:
        """Take out a block and all that goes on from it; what that was."""
        gone = [block]
        for one in gone:
            gone += one.following()
        for one in reversed(gone):
            self.remove(one)
        return gone

    def clear(self) -> None:
        self.root = Block(None, b"")
        self._recent.clear()
        self.bytes = self.count = 0

    def __contains__(self, entry: Block | Snapshot) -> bool:
        return entry in self._recent

    def _enter(self, entry: Block | Snapshot) -> None:
        self._recent[entry] = None
        self.bytes += entry.nbytes

    def _leave(self, entry: Block | Snapshot) -> None:
        del self._recent[entry]
        self.bytes -= entry.nbytes


def _siblings(block: Block) -> dict[bytes, Block]:
    """Where a block hangs."""
    if block.parent is None:
        raise ValueError("the root hangs nowhere")
    return block.parent.tails if block.tail else block.parent.children
