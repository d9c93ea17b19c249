"""Model folders: sizes from config.json, stored parameters from safetensors headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.local_model import spec_from_path, stored_parameters

CONFIG = {
    "model_type": "novel",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def _safetensors(path: Path, header: Any, *, length: int | None = None) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)


def test_stored_parameters_are_summed_over_the_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    _safetensors(
        tmp_path / "model-1.safetensors",
        {"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [100, 64], "data_offsets": [0, 1]}},
    )
    _safetensors(tmp_path / "model-2.safetensors", {"b": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}})
    spec = spec_from_path(tmp_path)
    assert (spec.total_params, spec.confidence, spec.local_path) == (6401, "medium", str(tmp_path))


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"a": {"dtype": "U8", "shape": [4]}}, None),  # packed: elements are not weights
        ({"a": {"dtype": "F32", "shape": [10**9, 10**9]}}, None),
        ({"a": {"dtype": "F32", "shape": ["x"]}}, None),
        ({"a": {"dtype": "F32"}}, None),
        ({"a": 3}, None),
        ([1], None),
        ({}, 10**18),
        ({}, 1),
    ],
)
def test_headers_that_do_not_count(tmp_path: Path, header: Any, length: int | None) -> None:
    _safetensors(tmp_path / "model.safetensors", header, length=length)
    assert stored_parameters(tmp_path) is None


def test_no_weights_no_count(tmp_path: Path) -> None:
    assert stored_parameters(tmp_path) is None


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        spec_from_path(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter") as caught:
        spec_from_path(tmp_path)
    assert "base model" in str(caught.value.hint)
    with pytest.raises(InputError, match="no such file"):
        spec_from_path(tmp_path / "missing")


def test_a_folder_with_several_gguf_files_asks_which(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"")
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        spec_from_path(tmp_path)
    assert "2 GGUF files" in str(caught.value.hint)
    (tmp_path / "b.gguf").unlink()
    with pytest.raises(InputError, match=r"a\.gguf: the file is empty"):
        spec_from_path(tmp_path)
