"""The words of JSON Schema, 2020-12 and before, by what becomes of them when an answer is held to a schema."""

from __future__ import annotations

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
# They say something to a reader and nothing of what is right.
ANNOTATIONS = frozenset(
    {
        "$anchor",
        "$comment",
        "$dynamicAnchor",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "externalDocs",
        "id",
        "readOnly",
        "title",
        "writeOnly",
        "xml",
    }
)
# Looked up when something refers to them.
DEFINITIONS = frozenset({"$defs", "definitions"})
# Words that are not enforced, with the values that change nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "propertyNames": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
}
# What says something of numbers, of strings, of arrays and of objects.
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
STRINGS = ("minLength", "maxLength", "pattern", "format")
ARRAYS = ("items", "prefixItems", "additionalItems", "minItems", "maxItems")
OBJECTS = (
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
)
WHOLE = ("const", "enum")
BRANCHES = ("allOf", "anyOf", "oneOf")
ENFORCED = frozenset({"type", "$ref", *NUMBERS, *STRINGS, *ARRAYS, *OBJECTS, *WHOLE, *BRANCHES})
