"""JSON Schema as far as an answer can be held to it while it is generated, and no further.

Every word of a schema is enforced, says nothing of what is right, or is refused by name: what llguidance would leave out
in silence is refused here. `lowered` is the schema it is given: the same meaning in the words it enforces, or a narrower
one where it would let something wrong through. What is narrowed: formats become patterns (its own have a 29 February
in every year), `oneOf` becomes `anyOf` where no value can be of two branches, numbers with an exclusive bound have so few
decimals that reading them as floats does not round them onto it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import BadRequest, GrammarTooComplex, UnsupportedParameter
from . import decimals, disjoint, pattern, references
from .formats import FORMATS
from .schema_values import (
    CONTROL,
    bounds,
    count_of,
    invalid,
    names,
    plain,
    properties_count,
    types,
    unsupported,
)
from .schema_words import (
    ANNOTATIONS,
    ARRAYS,
    BRANCHES,
    DEFINITIONS,
    ENFORCED,
    NEUTRAL,
    NUMBERS,
    OBJECTS,
    STRINGS,
    WHOLE,
)

Schema = dict[str, Any] | bool
# Levels of JSON; llguidance reads 128.
DEEPEST = 100
# Schemas and the values in them: llguidance's compiler takes a step down for each of a chain of references.
MOST = 10_000
# So many characters of a pattern count as one part.
SIGNS = 10
# Properties of one object: its time grows with the square of those that may be left out, 0.2 s for 2,000.
WIDEST = 2_000


def check(schema: Any, path: str) -> None:
    """Raise what cannot be enforced: UnsupportedParameter for a word, InvalidParameter for a value that is not what its
    word takes or that contradicts another, GrammarTooComplex beyond 100 levels of JSON, 10,000 parts, or 2,000
    properties of one object.

    The message names word and place, `path` in front; names of the schema's own are repeated only if they are plain.
    """
    lowered(schema, path)


def enforceable(schema: Any) -> bool:
    """Whether `check` lets it pass."""
    try:
        lowered(schema)
    except BadRequest:
        return False
    return True


def lowered(schema: Any, path: str = "schema") -> Schema:
    """The schema to enforce. Raises what `check` raises."""
    return Lowering(schema, path).run()


class Lowering:
    """One schema on its way. `definitions` are the schemas that something refers to, by their new names."""

    def __init__(self, root: Any, path: str):
        self.root, self.path = root, path
        self.definitions: dict[str, Schema] = {}
        self._names: dict[str, str] = {}
        self._left: deque[tuple[str, str]] = deque()
        self._parts = 0
        self._multiples: list[tuple[int, int]] = []
        self._meets = False

    def __repr__(self) -> str:
        return f"<Lowering of {self._parts} parts, {len(self.definitions)} definitions>"

    def run(self) -> Schema:
        if self.root is False:
            raise invalid(self.path, "allows no value at all")
        made = self.schema(self.root, self.path, 0)
        while self._left:
            name, pointer = self._left.popleft()
            steps = references.steps(pointer)
            place = ".".join([self.path, *map(plain, steps)])
            self.definitions[name] = self.schema(references.found(self.root, steps), place, 0)
        if self._meets:
            self._check_multiples(0, self.path)
        references.check(made, self.definitions, self.path)
        known = disjoint.Known(self.definitions, self.path)
        made = disjoint.without_one_of(made, known)
        self.definitions = {
            name: disjoint.without_one_of(schema, known) for name, schema in self.definitions.items()
        }
        if isinstance(made, bool) or not self.definitions:
            return made
        return {**made, "$defs": self.definitions}

    def schema(self, schema: Any, path: str, depth: int) -> Schema:
        """One schema and those within it."""
        self.count(path, depth)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise invalid(path, "has to be an object or a boolean")
        self._refuse(schema, path, depth)
        made: dict[str, Any] = {}
        before = len(self._multiples)
        if "type" in schema:
            made["type"] = types(schema["type"], f"{path}.type")
        for words, take in self._takers():
            given = {word: schema[word] for word in words if word in schema}
            if given:
                made |= take(given, made, path, depth)
        if _meets(made):
            self._meet(made, path, before)
        return decimals.bounded(made)

    def _meet(self, made: dict[str, Any], path: str, before: int) -> None:
        """Several schemas speak of one value."""
        for word in ("minProperties", "maxProperties"):
            if word in made:
                raise unsupported(
                    path, word, "counting properties that several schemas name cannot be enforced"
                )
        # What is referred to is not known yet.
        self._meets = self._meets or next(references.named(made), None) is not None
        self._check_multiples(before, path)

    def _check_multiples(self, before: int, path: str) -> None:
        if not decimals.together(set(self._multiples[before:])):
            raise unsupported(path, "multipleOf", "several of such size cannot be enforced together")

    def count(self, path: str, depth: int, parts: int = 1) -> None:
        self._parts += parts
        if depth > DEEPEST:
            raise GrammarTooComplex(f"'{path}' is nested too deeply.", field=path, depth=depth, limit=DEEPEST)
        if self._parts > MOST:
            raise GrammarTooComplex(f"'{self.path}' is too large.", field=self.path, limit=MOST)

    # --- words -----------------------------------------------------------------------------------------------

    def _takers(self) -> list[tuple[tuple[str, ...], Callable[..., dict[str, Any]]]]:
        return [
            (NUMBERS, self._numbers),
            (STRINGS, self._strings),
            (ARRAYS, self._arrays),
            (OBJECTS, self._objects),
            (WHOLE, self._values),
            (("$ref",), self._reference),
            (BRANCHES, self._branches),
        ]

    def _refuse(self, schema: dict[str, Any], path: str, depth: int) -> None:
        for word, value in schema.items():
            if word in ENFORCED or word in ANNOTATIONS or word in DEFINITIONS or word.startswith("x-"):
                continue
            if word == "$id" and depth == 0 and schema is self.root:
                continue
            neutral = any(value == one and isinstance(value, type(one)) for one in NEUTRAL.get(word, ()))
            if neutral or (word == "uniqueItems" and count_of(schema.get("maxItems")) <= 1):
                continue
            raise unsupported(path, word, "it cannot be enforced while an answer is generated")

    def _numbers(self, given: dict[str, Any], made: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        for word, value in given.items():
            if not decimals.is_number(value):
                raise invalid(f"{path}.{word}", "has to be a number")
            if not decimals.exact(value):
                raise unsupported(path, word, "its value has more digits than can be enforced")
        if "multipleOf" in given:
            self._count_in(given["multipleOf"], path)
        kind = made.get("type")
        off = [word for word in ("exclusiveMinimum", "exclusiveMaximum") if word in given]
        if kind in ("integer", ["integer"]):
            given = decimals.tightened(given, decimals.whole(given.get("multipleOf", 1)))
        elif off or "multipleOf" in given:
            unit = given.get("multipleOf") or decimals.step([given[word] for word in off])
            if unit is None:
                raise unsupported(path, off[0], "its value has more digits than can be enforced")
            given = {**decimals.tightened(given, unit), "multipleOf": unit}
            self._count_in(unit, path)
        if kind in ("integer", "number") and decimals.empty(given):
            raise invalid(path, "has bounds that no number meets")
        return given

    def _count_in(self, value: float, path: str) -> None:
        if value <= 0:
            raise invalid(f"{path}.multipleOf", "has to be positive")
        counted = decimals.multiple(value)
        if counted is None:
            raise unsupported(path, "multipleOf", "its value has more digits than can be enforced")
        self._multiples.append(counted)

    def _strings(self, given: dict[str, Any], made: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        bounds(given, "minLength", "maxLength", path)
        kept: dict[str, Any] = {word: given[word] for word in ("minLength", "maxLength") if word in given}
        patterns = [self.pattern(given["pattern"], f"{path}.pattern")] if "pattern" in given else []
        if "format" in given:
            if not isinstance(given["format"], str):
                raise invalid(f"{path}.format", "has to be a string")
            if given["format"] not in FORMATS:
                raise unsupported(path, "format", f"{plain(given['format'])} cannot be enforced")
            patterns.append(FORMATS[given["format"]])
        if patterns:
            kept["pattern"] = patterns[0]
        return kept | ({"allOf": [{"pattern": more} for more in patterns[1:]]} if patterns[1:] else {})

    def pattern(self, value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise invalid(path, "has to be a string")
        self.count(path, 0, len(value) // SIGNS)
        fault = pattern.fault(value)
        if fault:
            raise UnsupportedParameter(f"'{path}' cannot be enforced: {fault}.", field=path)
        return value

    def _arrays(self, given: dict[str, Any], made: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        bounds(given, "minItems", "maxItems", path)
        kept: dict[str, Any] = {word: given[word] for word in ("minItems", "maxItems") if word in given}
        # Before 2020-12 a list of `items` was what `prefixItems` is now.
        old = isinstance(given.get("items"), list)
        first, rest = ("items", "additionalItems") if old else ("prefixItems", "items")
        if first in given:
            kept["prefixItems"] = self.listed(given[first], f"{path}.{first}", depth)
        if rest in given:
            kept["items"] = self.schema(given[rest], f"{path}.{rest}", depth + 1)
        return kept

    def listed(self, value: Any, path: str, depth: int) -> list[Schema]:
        """A list of schemas, not empty."""
        if not isinstance(value, list) or not value:
            raise invalid(path, "has to be a list of schemas")
        return [self.schema(one, f"{path}.{number}", depth + 2) for number, one in enumerate(value)]

    def _objects(self, given: dict[str, Any], made: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        bounds(given, "minProperties", "maxProperties", path)
        kept: dict[str, Any] = {
            word: value for word, value in given.items() if word in ("minProperties", "maxProperties")
        }
        for word in ("properties", "patternProperties"):
            if word in given:
                kept[word] = self._named(given[word], f"{path}.{word}", depth)
        for name in kept.get("patternProperties", ()):
            self.pattern(name, f"{path}.patternProperties")
        if "additionalProperties" in given:
            more = given["additionalProperties"]
            kept["additionalProperties"] = self.schema(more, f"{path}.additionalProperties", depth + 1)
        if "required" in given:
            kept["required"] = names(given["required"], f"{path}.required")
        properties_count(kept, path)
        return kept

    def _named(self, value: Any, path: str, depth: int) -> dict[str, Schema]:
        if not isinstance(value, dict):
            raise invalid(path, "has to be an object")
        if any(CONTROL.search(name) for name in value):
            raise UnsupportedParameter(f"'{path}' has a name with control characters.", field=path)
        if len(value) > WIDEST:
            raise GrammarTooComplex(f"'{path}' has too many names.", field=path, limit=WIDEST)
        return {name: self.schema(one, f"{path}.{plain(name)}", depth + 2) for name, one in value.items()}

    def _values(self, given: dict[str, Any], made: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        for word, value in given.items():
            if word == "enum" and (not isinstance(value, list) or not value):
                raise invalid(f"{path}.enum", "has to be a list of values")
            self._value(value, f"{path}.{word}", depth + 1)
            values = value if word == "enum" else [value]
            if not any(disjoint.has_type(one, made.get("type")) for one in values):
                raise invalid(f"{path}.{word}", "has no value of the type")
        return given

    def _value(self, value: Any, path: str, depth: int) -> None:
        """A constant, which has to be one that can be written in one way only."""
        self.count(path, depth)
        if decimals.is_number(value) and not decimals.exact(value):
            raise UnsupportedParameter(
                f"'{path}' has a number of more digits than can be enforced.", field=path
            )
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        if any(CONTROL.search(text) for text in texts):
            raise UnsupportedParameter(f"'{path}' has a string with control characters.", field=path)
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for one in inner:
            self._value(one, path, depth + 1)

    def _reference(
        self, given: dict[str, Any], made: dict[str, Any], path: str, depth: int
    ) -> dict[str, Any]:
        pointer = given["$ref"]
        if not isinstance(pointer, str):
            raise invalid(f"{path}.$ref", "has to be a string")
        if pointer != "#" and not pointer.startswith("#/"):
            raise unsupported(path, "$ref", "only places within the schema can be referred to")
        if pointer not in self._names:
            if not references.exists(self.root, references.steps(pointer)):
                raise invalid(f"{path}.$ref", "refers to a place that is not there")
            name = self._names[pointer] = f"s{len(self._names)}"
            self._left.append((name, pointer))
        return {"$ref": f"#/$defs/{self._names[pointer]}"}

    def _branches(self, given: dict[str, Any], made: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        kept: dict[str, Any] = {
            word: self.listed(value, f"{path}.{word}", depth) for word, value in given.items()
        }
        if "oneOf" in kept:
            kept["oneOf"] = disjoint.OneOf(kept["oneOf"], f"{path}.oneOf")
        if "allOf" in made:
            kept["allOf"] = [*made["allOf"], *kept.get("allOf", [])]
        alone = kept.get("allOf", ())
        if not made and len(kept) == 1 and len(alone) == 1 and isinstance(alone[0], dict):
            # As some write a reference with a description.
            return alone[0]
        return kept


def _meets(made: dict[str, Any]) -> bool:
    branches = any(word in made for word in ("$ref", *BRANCHES))
    names = "properties" in made and "patternProperties" in made
    return names or (branches and (len(made) > 1 or len(made.get("allOf", ())) > 1))
