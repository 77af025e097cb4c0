"""What a model can do, told from its files: templates, configs, and that nothing of a folder is ever run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm import utils

from mlx_panel.engine import loader
from mlx_panel.hub.architectures import Architectures
from mlx_panel.hub.capabilities import CapabilityReader, Manners, family_of
from mlx_panel.library import Capabilities

from .models import CHATML, tiny_model
from .test_manner import PLAIN, QWEN

TOOLS = "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
THINKS = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
# A template, the tokens added to the vocabulary, and what is read off them: tools, reasoning, switch, variables.
TEMPLATES: dict[str, tuple[str, tuple[str, ...], tuple[str, str, str, tuple[str, ...]]]] = {
    "plain": (PLAIN, (), ("", "", "", ())),
    "qwen": (QWEN, ("<think>", "</think>"), ("hermes_json", "think", "enable_thinking", ("enable_thinking",))),
    "coder": (TOOLS + "<tool_call><function=name><parameter=a>" + PLAIN, (), ("qwen3_coder_xml", "", "", ())),
    "mistral": (TOOLS + "[TOOL_CALLS]" + PLAIN, (), ("mistral_native", "", "", ())),
    "magistral": (TOOLS + "[TOOL_CALLS]x[ARGS][THINK]" + PLAIN, (), ("devstral", "mistral_think", "", ())),
    "glm": (TOOLS + "<tool_call><arg_key>" + THINKS + PLAIN, (), ("glm47", "think", "enable_thinking", ("enable_thinking",))),
    "harmony": (
        TOOLS + "<|channel|>analysis<|message|> functions. {{ reasoning_effort }}" + PLAIN, (),
        ("harmony", "harmony", "", ("reasoning_effort",)),
    ),
    "deepseek": (
        TOOLS + "{% if thinking %}<think>{% endif %}<｜tool▁calls▁begin｜><｜tool▁sep｜>" + PLAIN, (),
        ("deepseek_v31", "think", "thinking", ("thinking",)),
    ),
    "granite": (TOOLS + "<|tool_call|>{{ controls }}" + PLAIN, (), ("granite", "", "", ("controls",))),
    "by its vocabulary": (PLAIN, ("[THINK]", "[/THINK]"), ("", "mistral_think", "", ())),
    "marks without tools": (PLAIN + "<tool_call>", (), ("", "", "", ())),
    "the assistant's words": (PLAIN + "{%- generation %}{{ style }}{%- endgeneration %}", (), ("", "", "", ("style",))),
    "broken": ("{% for", (), ("", "", "", ())),
}  # fmt: skip
LLAMA = {"model_type": "llama", "max_position_embeddings": 4096}
# A config, a name, and what is said of it.
CONFIGS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "llama": (LLAMA, "org/SmolLM2-1B", {"kinds": ("text",), "family": "SmolLM", "bits": 16, "supported": True, "context_length": 4096, "reason": ""}),
    "another name": ({"model_type": "mistral"}, "x", {"supported": True, "family": "Mistral"}),
    "by its class": ({"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]}, "x", {"supported": True}),
    "quantised": ({**LLAMA, "quantization": {"bits": 4, "group_size": 64}}, "x", {"bits": 4}),
    "legacy": ({**LLAMA, "quantization_config": {"quant_method": "mxfp4"}}, "x", {"bits": 4, "supported": True}),
    "unread": ({**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"}}, "x", {"supported": False}),
    "vision": ({"model_type": "qwen3_vl", "vision_config": {"depth": 1}, "text_config": {"max_position_embeddings": 9}}, "x", {"kinds": ("text", "vision"), "supported": True, "context_length": 9}),
    "sound": ({"model_type": "whisper"}, "whisper-tiny", {"kinds": ("audio",), "supported": False, "family": "Whisper"}),
    "unknown": ({"model_type": "no_such_thing"}, "x", {"supported": False, "kinds": ("text",)}),
    "no model": ({"model_type": "base"}, "x", {"supported": False}),
    "a path": ({"model_type": "../llama"}, "x", {"supported": False}),
    "own code": ({**LLAMA, "model_file": "model.py"}, "x", {"supported": False}),
    "nothing": ({}, "x", {"supported": False}),
}  # fmt: skip
READER = CapabilityReader()


def four(found: Capabilities) -> tuple[str, str, str, tuple[str, ...]]:
    return found.tools, found.reasoning, found.switch, found.template_variables


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_says_what_the_engine_finds(tmp_path: Path, name: str) -> None:
    template, marks, expected = TEMPLATES[name]
    folder = tiny_model(tmp_path / "m", template=template, marks=marks)
    found = READER.read(folder)
    assert four(found) == expected
    assert ("tools" in found.kinds, "reasoning" in found.kinds) == (bool(expected[0]), bool(expected[1]))
    info = loader.load(folder).info
    assert (info.reasoning, info.template_variables) == (found.reasoning, found.template_variables)
    assert info.tools == (found.tools or "hermes_json")  # those without a dialect are taught one


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_what_it_is(name: str) -> None:
    config, called, expected = CONFIGS[name]
    found = READER.describe(config, called)
    assert {key: getattr(found, key) for key in expected} == expected
    assert bool(found.reason) == (not found.supported or "vision" in found.kinds)


def test_where_a_template_lies(tmp_path: Path) -> None:
    """As transformers looks for it: a file of its own before the config, several by name."""
    folder = tiny_model(tmp_path / "m", template=None)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert four(READER.read(folder)) == ("", "", "", ())

    def with_template(template: Any) -> Capabilities:
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
        return READER.read(folder)

    assert with_template(QWEN).switch == "enable_thinking"
    several = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": QWEN}]
    assert with_template(several).tools == "hermes_json"
    assert with_template({"of": "another form"}).tools == ""
    (folder / "chat_template.jinja").write_text(PLAIN + TOOLS + "[TOOL_CALLS]")
    assert with_template(QWEN).tools == "mistral_native"
    assert loader.load(folder).info.tools == "mistral_native"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(QWEN)
    os.utime(folder / "chat_template.jinja", (1, 1))
    assert READER.read(folder).tools == "hermes_json"


def test_what_was_read_is_kept_until_a_file_changes(tmp_path: Path) -> None:
    folder, reader = tiny_model(tmp_path / "m"), CapabilityReader()
    first = reader.read(folder)
    assert reader.read(folder) is first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 77_777}))
    assert reader.read(folder).context_length == 77_777


def test_every_module_of_mlx_lm_is_known() -> None:
    """What mlx-lm would load has a module here, and nothing else: the truth is mlx-lm's own function."""
    known, package = Architectures(), Path(utils.__file__).parent
    stems = [file.stem for file in (package / "models").glob("*.py") if file.stem != "__init__"]
    for family in [*stems, *utils.MODEL_REMAPPING, "whisper", ""]:
        config = {"model_type": family, "architectures": ["BailingMoeV3ForCausalLM"]}
        try:
            loaded = bool(utils._get_classes(config))
        except (ValueError, AttributeError, SystemExit):  # olmo asks for a package in its own way
            loaded = False
        assert bool(known.module(config)) == loaded, family
        if loaded:
            importlib.import_module(f"mlx_lm.models.{known.module(config)}")


def test_reading_imports_neither_mlx_nor_transformers(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", template=QWEN)
    program = (
        "import sys; from pathlib import Path; from mlx_panel.hub.capabilities import CapabilityReader as R\n"
        f"assert R().read(Path({str(folder)!r})).supported\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('mlx', 'mlx_lm', 'transformers', 'torch')])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["model_type", "architectures", "text_config", "vision_config", "quantization", "quantization_config", "model_file", "max_position_embeddings", "hidden_size"]
)  # fmt: skip


@given(st.dictionaries(KEYS, JSON), st.text(max_size=20), st.text(max_size=60), st.booleans())
def test_any_config_is_described(config: dict[str, Any], name: str, template: str, embeds: bool) -> None:
    found = READER.describe(config, name, Manners(template, {"<think>"}), embeds=embeds)
    assert found.supported or found.reason
    assert isinstance(found.bits, int)


@given(JSON, JSON, JSON)
def test_any_files_are_read(tmp_path_factory: pytest.TempPathFactory, one: Any, two: Any, three: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name, value in (("config.json", one), ("tokenizer_config.json", two), ("tokenizer.json", three)):
        (folder / name).write_text(json.dumps(value))
    assert isinstance(CapabilityReader(READER.architectures).read(folder), Capabilities)


@pytest.mark.parametrize(
    ("name", "architecture", "family"),
    [("mlx-community/Qwen3-0.6B-4bit", "qwen3", "Qwen"), ("my-model", "gemma3_text", "Gemma"), ("SmolLM2", "llama", "SmolLM"), ("x", "y", "")],
)  # fmt: skip
def test_families(name: str, architecture: str, family: str) -> None:
    assert family_of(name, architecture) == family


def test_a_chat_template_of_mlx_lms_own_is_no_text(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", template=None)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template_type": "deepseek_v32"})
    )
    assert READER.read(folder).kinds == ("text",)
    assert CHATML
