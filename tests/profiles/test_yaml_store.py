"""YAML loading: the cache is invisible but for its speed, and broken files are told apart by line and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftadvise.profiles import yaml_store
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.yaml_store import load_yaml, load_yaml_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(yaml_store, "cache_folder", lambda: folder)
    return folder


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _no_parsing(*_: object) -> None:
    raise AssertionError("parsed although the cache has it")


def test_second_load_comes_from_the_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _write(tmp_path / "a.yaml", "name: 千问\nsizes: [1, 2.5, true, null]\ndate: 2026-01-31\n")
    first = load_yaml(file)
    monkeypatch.setattr(yaml_store, "_parse", _no_parsing)
    assert load_yaml(file) == first == {"name": "千问", "sizes": [1, 2.5, True, None], "date": "2026-01-31"}


def test_an_edited_file_replaces_its_entry(cache: Path, tmp_path: Path) -> None:
    file = _write(tmp_path / "a.yaml", "x: 1")
    other = _write(tmp_path / "b.yaml", "x: 9")
    load_yaml(file), load_yaml(other)
    assert load_yaml(_write(file, "x: 2")) == {"x": 2}
    assert sorted(path.name[0] for path in cache.rglob("*.json")) == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sha256": "0", "data": 7}', b"\xff\xfe", b"[" * 100_000])
def test_a_corrupt_entry_is_made_again(cache: Path, tmp_path: Path, content: bytes) -> None:
    file = _write(tmp_path / "a.yaml", "x: 1")
    load_yaml(file)
    (entry,) = cache.rglob("*.json")
    entry.write_bytes(content)
    assert load_yaml(file) == {"x": 1}
    assert json.loads(entry.read_bytes())["data"] == {"x": 1}


def test_an_unusable_cache_folder_is_no_error(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert load_yaml(_write(tmp_path / "a.yaml", "x: 1")) == {"x": 1}


def test_without_cache_nothing_is_written(cache: Path, tmp_path: Path) -> None:
    assert load_yaml(_write(tmp_path / "a.yaml", "x: 1"), cache=False) == {"x": 1}
    assert not cache.exists()


def test_a_folder_is_one_entry(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    _write(folder / "b.yaml", "- 2")
    _write(folder / "a.yaml", "- 1")
    _write(folder / "ignored.txt", "::::")
    assert list(load_yaml_folder(folder).items()) == [("a.yaml", [1]), ("b.yaml", [2])]
    assert len(list(cache.rglob("*.json"))) == 1
    (folder / "b.yaml").unlink()
    assert load_yaml_folder(folder) == {"a.yaml": [1]}
    assert len(list(cache.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", ["line 3", "key 'c'"]),
        ("a: &x 1\nb: *x\n", ["aliases"]),
        ("outer:\n  on: 1\n", ["line 2", "'on'", "quotes"]),
        ("a: 1\na: 2\n", ["line 2", "'a'", "twice"]),
        ("a: !!python/object/apply:os.system [echo]\n", ["line 1", "key 'a'", "python/object"]),
        ("? [1]\n: 2\n", ["must be text"]),
        ("--- 1\n--- 2\n", ["another document"]),
        ("[" * 5000, ["line 1"]),
    ],
)
def test_broken_yaml_names_file_line_and_key(cache: Path, tmp_path: Path, text: str, parts: list[str]) -> None:
    file = _write(tmp_path / "broken.yaml", text)
    with pytest.raises(InputError) as caught:
        load_yaml(file)
    message = str(caught.value)
    assert "broken.yaml" in message
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert not list(cache.rglob("*.json"))


def test_files_that_cannot_be_read(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_yaml(tmp_path / "missing.yaml")
    with pytest.raises(InputError, match="no such folder"):
        load_yaml_folder(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: 1\nname: Zoë".encode("latin-1"))
    with pytest.raises(InputError, match=r"line 2: not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_plain)
def test_cold_and_warm_loads_agree(cache: Path, tmp_path: Path, data: object) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(yaml.dump({"data": data}, Dumper=_NoAliases), encoding="utf-8")
    assert load_yaml(file) == load_yaml(file) == {"data": data}


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(alphabet="a:-[]{}&*!|>#'\"\n ?,0", max_size=60).map(str.encode))
def test_any_bytes_load_or_are_an_input_error(cache: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    try:
        load_yaml(file)
        message = ""
    except InputError as error:
        message = str(error)
    assert not message or "any.yaml" in message
