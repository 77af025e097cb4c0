"""docs/api.md and docs/embeddings.md say what the embeddings endpoint takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mlx_panel.http.embeddings import VOCABULARY, EmbeddingBody

from .test_standard import DATA, needs_data

API = Path(__file__).parent.parent / "docs" / "api.md"


def rows() -> dict[str, str]:
    """The section's table: each field and what becomes of it."""
    part = next(
        part
        for part in re.split(r"^## ", API.read_text(encoding="utf-8"), flags=re.M)
        if part.startswith("Embeddings\n")
    )
    return dict(re.findall(r"^\| `(\w+)`(?: \+)? \| ([\w ]+) \|", part, flags=re.M))


def test_every_field_has_its_row() -> None:
    known = dict.fromkeys(EmbeddingBody.__struct_fields__, "honoured")
    known |= dict.fromkeys(VOCABULARY.unsupported, "refused") | dict.fromkeys(
        VOCABULARY.without_effect, "no effect"
    )
    assert rows() == known


@needs_data
def test_every_field_of_openai_is_known() -> None:
    schemas = json.loads((DATA / "openai-openapi.json").read_text(encoding="utf-8"))["components"]["schemas"]
    assert set(schemas["CreateEmbeddingRequest"]["properties"]) <= set(rows())
