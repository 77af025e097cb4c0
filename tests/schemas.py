"""JSON Schemas of rising difficulty, the same at every run, and random answers within a mask."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from mlx_panel.engine.guide import Guide, Mask

Schema = dict[str, Any]
NAMES = ("name", "age", "city", "tags", "is_open", "price €", "x-y", 'quote"d', "a.b", "child")
WORDS = ("red", "green", "blue", "a b", 'say "hi"', "naïve", "日本", "back\\slash", "1/2", "")
PATTERNS = (
    "^[A-Z]{2}[0-9]{3}$",
    "^(foo|bar)+$",
    "[0-9]",
    "^[^,;]{1,8}$",
    "^\\w+@\\w+\\.com$",
    "^(\\d{3}-)?\\d{4}$",
)
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
# What the checks measure with.
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 5},
        "born": {"type": "string", "format": "date"},
    },
    "required": ["name", "age", "tags", "born"],
    "additionalProperties": False,
}


class Schemas:
    """Makes schemas; `level` (0 to 9) says how deep they are and what may be in them."""

    def __init__(self, seed: int, level: int):
        self._random = random.Random(seed)
        self._level = level
        self.definitions: dict[str, Schema] = {}

    def schema(self) -> Schema:
        """A whole one; from level 6 on parts of it are definitions, from 8 on some contain themselves."""
        root = self.object(self._depth)
        if self.definitions:
            root["$defs"] = self.definitions
        return root

    @property
    def _depth(self) -> int:
        return 1 + self._level // 3

    def value(self, depth: int) -> Schema:
        kinds = ["string", "integer", "boolean", "null", "number"]
        kinds += ["enum", "const"] if self._level >= 1 else []
        kinds += ["pattern", "format"] if self._level >= 3 else []
        if depth > 0:
            kinds += ["object", "array"]
            kinds += ["any_of", "map", "tuple"] if self._level >= 4 else []
            kinds += ["reference", "one_of", "all_of"] if self._level >= 6 else []
            kinds += ["recursive"] if self._level >= 8 else []
        return getattr(self, self._random.choice(kinds))(*([depth] if depth > 0 else [0]))

    def null(self, depth: int) -> Schema:
        return {"type": self._random.choice(["null", ["null", "boolean"]])}

    def boolean(self, depth: int) -> Schema:
        return {"type": "boolean"}

    def string(self, depth: int) -> Schema:
        least = self._random.randrange(3)
        bounds = [{}, {"maxLength": 12}, {"minLength": least, "maxLength": least + 9}]
        return {"type": "string", "maxLength": 40, **self._random.choice(bounds)}

    def integer(self, depth: int) -> Schema:
        low = self._random.randint(-1000, 1000)
        bounds: list[Schema] = [
            {"minimum": low, "maximum": low + self._random.randrange(500)},
            {"exclusiveMinimum": low, "exclusiveMaximum": low + 2 + self._random.randrange(50)},
            {"minimum": 0, "maximum": 10**9, "multipleOf": self._random.choice([2, 3, 7, 10, 25])},
        ]
        return {"type": "integer", **self._random.choice(bounds)}

    def number(self, depth: int) -> Schema:
        low = round(self._random.uniform(-100, 100), self._random.randrange(3))
        bounds: list[Schema] = [
            {"minimum": low, "maximum": low + 10},
            {"exclusiveMinimum": low, "exclusiveMaximum": low + 0.5},
            {"minimum": -0.5, "exclusiveMaximum": 1},
            {"minimum": 0, "maximum": 5, "multipleOf": 0.5},
        ]
        chosen = self._random.choice(bounds)
        return {"type": "number", **{word: round(value, 6) for word, value in chosen.items()}}

    def enum(self, depth: int) -> Schema:
        values: list[Any] = [*WORDS, 1, -2, 2.5, None, True, [1, "a"], {"k": 1}]
        return {"enum": self._random.sample(values, self._random.randint(1, 5))}

    def const(self, depth: int) -> Schema:
        return {"const": self._random.choice([*WORDS, 0, -7, 3.25, False, None, [], {"a": [None]}])}

    def pattern(self, depth: int) -> Schema:
        return {"type": "string", "pattern": self._random.choice(PATTERNS), "maxLength": 24}

    def format(self, depth: int) -> Schema:
        return {"type": "string", "format": self._random.choice(FORMATS)}

    def object(self, depth: int) -> Schema:
        names = self._random.sample(NAMES, self._random.randint(1, 3 + self._level // 3))
        made: Schema = {
            "type": "object",
            "properties": {name: self.value(depth - 1) for name in names},
            "required": [name for name in names if self._level < 2 or self._random.random() < 0.7],
            "additionalProperties": False,
        }
        if self._level >= 5 and self._random.random() < 0.2:
            made["additionalProperties"] = {"type": "integer", "minimum": 0, "maximum": 9}
        return made

    def array(self, depth: int) -> Schema:
        least = self._random.randrange(3)
        return {
            "type": "array",
            "items": self.value(depth - 1),
            "minItems": least,
            "maxItems": least + self._random.randrange(3),
        }

    def tuple(self, depth: int) -> Schema:
        items = [self.value(depth - 1) for _ in range(2)]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": self._random.randrange(3)}

    def map(self, depth: int) -> Schema:
        made: Schema = {"type": "object", "minProperties": self._random.randrange(2), "maxProperties": 3}
        if self._random.random() < 0.5:
            return {**made, "additionalProperties": self.value(depth - 1)}
        named = {"^k[0-9]{1,2}$": self.value(depth - 1)}
        return {**made, "patternProperties": named, "additionalProperties": False}

    def any_of(self, depth: int) -> Schema:
        return {"anyOf": [self.value(depth - 1) for _ in range(self._random.randint(2, 3))]}

    def one_of(self, depth: int) -> Schema:
        branches = []
        for tag in ("cat", "dog"):
            branch = self.object(depth - 1)
            branch["properties"] = {"kind": {"const": tag}, **branch["properties"]}
            branches.append({**branch, "required": ["kind", *branch["required"]]})
        return {"oneOf": branches}

    def all_of(self, depth: int) -> Schema:
        return {
            "type": "object",
            "allOf": [
                {"properties": {"a": self.integer(0)}, "required": ["a"]},
                {"properties": {"b": self.value(depth - 1), "a": {"minimum": -2000}}},
            ],
        }

    def reference(self, depth: int) -> Schema:
        if not self.definitions or self._random.random() < 0.5:
            name = f"part{len(self.definitions)}"
            self.definitions[name] = {}
            self.definitions[name] = self.object(depth - 1)
        done = [name for name, schema in self.definitions.items() if schema]
        return {"$ref": f"#/$defs/{self._random.choice(done)}"} if done else {"type": "null"}

    def recursive(self, depth: int) -> Schema:
        name = f"tree{len(self.definitions)}"
        child = {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{name}"}]}
        self.definitions[name] = {
            "type": "object",
            "properties": {"v": self.integer(0), "left": child, "right": child},
            "required": ["v"],
            "additionalProperties": False,
        }
        return {"$ref": f"#/$defs/{name}"}


def generated(count: int, seed: int = 0) -> list[Schema]:
    """So many schemas, from the simplest to the hardest."""
    return [Schemas(seed + number, number * 10 // count).schema() for number in range(count)]


def allowed(mask: Mask | None, size: int) -> np.ndarray:
    """The tokens a mask allows."""
    if mask is None:
        return np.arange(size)
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[:size])


def walk(
    guide: Guide, pieces: list[bytes], eos: set[int], random: np.random.Generator, most: int = 600
) -> bytes | None:
    """A random answer: any allowed token, with a bias to those that end something. None if it does not end."""
    ends = [token for token, piece in enumerate(pieces) if piece and set(piece) <= set(b'"}],:')]
    text = b""
    for _ in range(most):
        tokens = allowed(guide.mask(), len(pieces))
        closing = np.intersect1d(tokens, [*ends, *eos])
        chosen = closing if closing.size and random.random() < 0.3 else tokens
        token = int(random.choice(chosen))
        guide.accept(token)
        if token in eos:
            return text
        text += pieces[token]
    return None
