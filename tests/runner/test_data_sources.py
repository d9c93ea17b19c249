"""Files, folders, patterns and hub names: what is read, in which order, and what is left out and said."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.profiles.errors import InputError
from ftadvise.runner.data import load_rows

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(name, *texts)`: a file of text rows."""

    def write(name: str, *texts: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return path

    return write


def _texts(path: Path | str, **settings: Any) -> list[str]:
    return [row.text for row in load_rows(DataSettings(str(path), **settings)).rows]


def test_the_files_of_a_folder_are_read_by_name_and_the_others_named(make: Make, tmp_path: Path) -> None:
    make("rows/b.jsonl", "two")
    make("rows/a $(x);'\n\x1b.jsonl", "one")
    make("rows/.hidden.jsonl", "never")
    make("rows/deeper/c.jsonl", "not asked for")
    (tmp_path / "rows" / "README.md").write_text("about", encoding="utf-8")
    (tmp_path / "rows" / "dataset_infos.json").write_text("{}", encoding="utf-8")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "rows" / "pipe.jsonl")
    found = load_rows(DataSettings(str(tmp_path / "rows")))
    assert [row.text for row in found.rows] == ["one", "two"]
    skipped = {Path(each.path).name: each.why for each in found.skipped}
    assert skipped.pop("pipe.jsonl", "not a regular file") == "not a regular file"
    assert skipped == {"README.md": "not a data file", "dataset_infos.json": "about the data, not data", "deeper": "a folder"}
    assert [file.rows for file in found.files] == [1, 1]


def test_patterns_reach_into_folders(make: Make, tmp_path: Path) -> None:
    make("a/1.jsonl", "one")
    make("b/2.jsonl", "two")
    make("b/c/3.jsonl", "three")
    assert _texts(tmp_path / "*" / "*.jsonl") == ["one", "two"]
    assert _texts(tmp_path / "**" / "*.jsonl") == ["one", "two", "three"]
    with pytest.raises(InputError, match="no data file in it, found nothing"):
        _texts(tmp_path / "*.csv")


def test_a_name_with_the_signs_of_a_pattern_is_that_file(make: Make) -> None:
    assert _texts(make("rows[1]*.jsonl", "one")) == ["one"]


def test_other_splits_of_a_folder_are_not_learned(make: Make, tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000", "validation", "contest"):
        make(f"set/{name}.jsonl", name)
    found = load_rows(DataSettings(str(tmp_path / "set")))
    assert [row.text for row in found.rows] == ["contest", "train-00000-of-00002", "train-00001-of-00002"]
    assert [(Path(each.path).name, each.why) for each in found.skipped] == [
        (name, "another split; --eval-data evaluates on it") for name in ("test-00000.jsonl", "validation.jsonl")
    ]


def test_a_folder_saved_by_datasets_is_its_arrow_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    datasets.Dataset.from_dict({"sentence": ["dull", "fun"], "label": [0, 1]}, features=features).save_to_disk(str(folder))
    found = load_rows(DataSettings(str(folder)))
    assert [row.text for row in found.rows] == ["bad", "good"]
    assert found.labels == ("bad", "good")
    assert [file.format for file in found.files] == ["classification"]


def test_each_file_may_have_its_own_format(make: Make, tmp_path: Path) -> None:
    make("mixed/a.jsonl", "plain")
    (tmp_path / "mixed" / "b.csv").write_text("question,answer\nwhat,that\n", encoding="utf-8")
    found = load_rows(DataSettings(str(tmp_path / "mixed")))
    assert [(file.format, file.why) for file in found.files] == [("text", "text"), ("prompt-completion", "question, answer")]


def test_the_fingerprint_depends_on_content_and_names(make: Make, tmp_path: Path) -> None:
    make("one/a.jsonl", "x")
    make("one/b.jsonl", "y")
    make("two/a.jsonl", "x")
    make("two/b.jsonl", "y")
    make("three/a.jsonl", "y")
    make("three/b.jsonl", "x")
    one, two, three = (load_rows(DataSettings(str(tmp_path / name))).sha256 for name in ("one", "two", "three"))
    assert one == two != three


def test_a_missing_file_names_the_nearest(make: Make, tmp_path: Path) -> None:
    make("train.jsonl", "x")
    with pytest.raises(InputError, match="no such data file") as caught:
        _texts(tmp_path / "trian.jsonl")
    assert caught.value.hint == "did you mean train.jsonl?"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no data file in it"):
        _texts(tmp_path / "empty")
    with pytest.raises(InputError, match=r"cannot be read|no such data file"):
        _texts("a\0b.jsonl")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_an_input_error(make: Make) -> None:
    path = make("secret.jsonl", "x")
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        _texts(path)


def test_a_hub_name_offline_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match=r"owner/name: no such file here, and the hub cannot be reached") as caught:
        _texts("owner/name:train")
    assert "HF_HUB_OFFLINE" in (caught.value.hint or "")


def test_a_hub_data_set_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path: str, name: str | None = None, *, split: str) -> Any:
        asked.append((path, name, split))
        if split == "nope":
            raise ValueError("Unknown split 'nope'. Should be one of ['train', 'test'].")
        features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
        return datasets.Dataset.from_dict({"sentence": ["dull", "fun"], "label": [0, 1]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_rows(DataSettings("nyu-mll/glue/sst2:validation"))
    assert (found.labels, [row.text for row in found.rows]) == (("bad", "good"), ["bad", "good"])
    assert found.sha256 == load_rows(DataSettings("nyu-mll/glue")).sha256
    assert asked == [("nyu-mll/glue", "sst2", "validation"), ("nyu-mll/glue", None, "train")]
    with pytest.raises(InputError, match=r"nyu-mll/glue: Unknown split 'nope'"):
        load_rows(DataSettings("nyu-mll/glue:nope"))


@pytest.mark.parametrize(("name", "module"), [("rows.parquet", "pyarrow"), ("owner/name", "datasets")])
def test_what_a_light_installation_cannot_read_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=f"needs {module}") as caught:
        _texts(tmp_path / name if name.endswith("parquet") else name)
    assert caught.value.hint == "pip install 'ftadvise[run]'"
