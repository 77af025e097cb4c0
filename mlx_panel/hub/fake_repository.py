"""What the fake hub serves: repositories of files that lie in a folder, in memory, or are made up as they are read."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

META = "hub.json"  # of a repository's folder: what the hub says of it; not a file of the repository
BLOCK = 1 << 16
LARGE = 10_000_000  # bytes from which on any file is kept by its SHA-256 (Git LFS) rather than by its blob id
LARGE_KINDS = (".safetensors", ".bin", ".gguf", ".pt", ".onnx", ".npz")


class Content(Protocol):
    """A file's bytes. `sha256` and `oid` (Git's blob id) are in hexadecimal."""

    size: int
    sha256: str
    oid: str

    def read(self, start: int, stop: int) -> bytes: ...


class Stored:
    """Bytes in memory."""

    def __init__(self, data: bytes):
        self._data = data
        self.size = len(data)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def __repr__(self) -> str:
        return f"<Stored {self.size} bytes>"

    def read(self, start: int, stop: int) -> bytes:
        return self._data[start:stop]


class OnDisk:
    """A file, read as it is served."""

    def __init__(self, file: Path):
        self._file = file
        self.size = file.stat().st_size
        self.sha256, self.oid = _sums(self)

    def __repr__(self) -> str:
        return f"<OnDisk {self._file} {self.size} bytes>"

    def read(self, start: int, stop: int) -> bytes:
        with self._file.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


class Generated:
    """`size` bytes that follow from `seed` and their place, behind `head`; none of them is kept.

    Every 64 KiB begin with their number, so a piece at a wrong place shows.
    """

    def __init__(self, size: int, seed: int = 0, head: bytes = b""):
        self.size, self._head = size, head[:size]
        self._pattern = random.Random(seed).randbytes(BLOCK)
        self.sha256, self.oid = _sums(self)

    def __repr__(self) -> str:
        return f"<Generated {self.size} bytes>"

    @classmethod
    def weights(cls, size: int, seed: int = 0) -> Generated:
        """A well-formed safetensors file of about `size` bytes with one tensor of random BF16 numbers."""
        count = max(1, (size - 128) // 2)
        tensor = {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}
        text = json.dumps({"weight": tensor}).encode().ljust(120)
        head = len(text).to_bytes(8, "little") + text
        return cls(len(head) + 2 * count, seed, head)

    def read(self, start: int, stop: int) -> bytes:
        stop = min(stop, self.size)
        first, last = start // BLOCK, -(-stop // BLOCK)
        rest = memoryview(self._pattern)[8:]
        data = b"".join(
            part for number in range(first, last) for part in (number.to_bytes(8, "little"), rest)
        )[start - first * BLOCK : stop - first * BLOCK]
        head = self._head[start:stop]
        return head + data[len(head) :] if head else data


def _sums(content: Any) -> tuple[str, str]:
    sha256, oid = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % content.size)
    for start in range(0, content.size, 1 << 20):
        piece = content.read(start, min(start + (1 << 20), content.size))
        sha256.update(piece)
        oid.update(piece)
    return sha256.hexdigest(), oid.hexdigest()


def is_large(path: str, content: Content) -> bool:
    """Whether the hub keeps a file by its SHA-256 rather than as a Git blob."""
    return path.endswith(LARGE_KINDS) or content.size >= LARGE


class Repository:
    """A model on the fake hub: its commits, each a set of files, the last one being `main`; and what is told of it.

    `meta` may hold anything of the hub's answer about a model (`downloads`, `likes`, `tags`, `pipeline_tag`,
    `lastModified`, `private`, `gated`); the rest follows from the files.
    """

    def __init__(self, id: str, files: Mapping[str, Content], **meta: Any):
        self.id = id
        self.meta = meta
        self.commits: dict[str, dict[str, Content]] = {}
        self.commit = ""
        self.move(dict(files))

    def __repr__(self) -> str:
        return f"<Repository {self.id} at {self.commit[:8]}, {len(self.files)} files>"

    @property
    def files(self) -> dict[str, Content]:
        return self.commits[self.commit]

    @property
    def gated(self) -> str:
        return str(self.meta.get("gated") or "")

    @property
    def private(self) -> bool:
        return bool(self.meta.get("private"))

    def move(self, changed: Mapping[str, Content]) -> str:
        """A new commit with other files in the place of those of the same name; its id."""
        files = {**(self.files if self.commit else {}), **changed}
        told = json.dumps(
            [self.id, len(self.commits), sorted((path, one.oid) for path, one in files.items())]
        )
        self.commit = hashlib.sha1(told.encode()).hexdigest()
        self.commits[self.commit] = files
        return self.commit

    def at(self, revision: str) -> str | None:
        """The commit a revision names."""
        return self.commit if revision == "main" else revision if revision in self.commits else None

    def info(self, commit: str, sizes: bool = False) -> dict[str, Any]:
        """What `/api/models/{id}` tells."""
        files = self.commits[commit]
        config = _json(files.get("config.json"))
        told = {
            "_id": hashlib.sha1(self.id.encode()).hexdigest()[:24], "id": self.id, "modelId": self.id,
            "author": self.id.partition("/")[0], "sha": commit, "private": False, "gated": False, "disabled": False,
            "downloads": 0, "likes": 0, "createdAt": "2026-01-01T00:00:00.000Z", "lastModified": "2026-01-01T00:00:00.000Z",
            "library_name": "mlx", "pipeline_tag": "text-generation", "tags": ["mlx", "safetensors"],
            "usedStorage": sum(one.size for one in files.values()), "config": _short(config, files),
            "siblings": [_sibling(path, one, sizes) for path, one in files.items()],
        }  # fmt: skip
        parameters = _parameters(files)
        if parameters:
            told["safetensors"] = {"parameters": parameters, "total": sum(parameters.values())}
        return {**told, **self.meta}


def _sibling(path: str, content: Content, sizes: bool) -> dict[str, Any]:
    return {"rfilename": path, **(entry(path, content, ("size", "blobId")) if sizes else {})}


def entry(path: str, content: Content, names: tuple[str, str] = ("size", "oid")) -> dict[str, Any]:
    """A file's size and hashes as the hub lists them."""
    lfs = {"oid": content.sha256, "sha256": content.sha256, "size": content.size, "pointerSize": 134}
    return {
        names[0]: content.size,
        names[1]: content.oid,
        **({"lfs": lfs} if is_large(path, content) else {}),
    }


def _short(config: dict[str, Any], files: Mapping[str, Content]) -> dict[str, Any]:
    """The part of its config that the hub shows of a model, the chat template with it."""
    kept: dict[str, Any] = {name: config[name] for name in ("architectures", "model_type") if name in config}
    if quantization := config.get("quantization_config") or config.get("quantization"):
        kept["quantization_config"] = quantization
    if template := _json(files.get("tokenizer_config.json")).get("chat_template"):
        kept["tokenizer_config"] = {"chat_template": template}
    if (file := files.get("chat_template.jinja")) is not None:
        kept["chat_template_jinja"] = file.read(0, file.size).decode()
    return kept


def _parameters(files: Mapping[str, Content]) -> dict[str, int]:
    """Numbers a dtype, from the heads of the safetensors files."""
    counts: dict[str, int] = {}
    for path, content in files.items():
        if path.endswith(".safetensors"):
            for tensor in _head(content).values():
                count = 1
                for length in tensor.get("shape", ()):
                    count *= length
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + count
    return counts


def _head(content: Content) -> dict[str, Any]:
    length = int.from_bytes(content.read(0, 8), "little")
    if length + 8 > content.size:
        return {}
    try:
        head = json.loads(content.read(8, 8 + length))
    except ValueError:
        return {}
    return {
        name: one
        for name, one in head.items()
        if name != "__metadata__" and isinstance(one, dict) and "dtype" in one
    }


def _json(content: Content | None) -> dict[str, Any]:
    try:
        value = json.loads(content.read(0, content.size)) if content else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def from_folder(folder: Path) -> list[Repository]:
    """The repositories below a folder: `org/name/files`, each with what its `hub.json` tells, if it has one."""
    found = []
    for place in sorted(path for path in folder.glob("*/*") if path.is_dir()):
        files = {
            str(file.relative_to(place)): OnDisk(file)
            for file in sorted(place.rglob("*"))
            if file.is_file() and file != place / META
        }
        meta = json.loads((place / META).read_text(encoding="utf-8")) if (place / META).is_file() else {}
        found.append(Repository(f"{place.parent.name}/{place.name}", files, **meta))
    return found


def made_up(id: str, size: int, shards: int = 1, seed: int = 0, **meta: Any) -> Repository:
    """A model whose weights are `size` made-up bytes in so many files, beside a config and a README."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 96,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
    }  # fmt: skip
    files: dict[str, Content] = {
        "config.json": Stored(json.dumps(config).encode()),
        "README.md": Stored(
            f"---\nlicense: mit\nlibrary_name: mlx\n---\n# {id}\nMade-up weights.\n".encode()
        ),
    }
    for number in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        files[name] = Generated.weights(size // shards, seed + number)
    return Repository(id, files, **meta)
