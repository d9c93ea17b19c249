"""The house style, as far as a machine can check it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from house import ROOMS, ROOT, our_files, pyproject, version

SOURCES = sorted(path for path in our_files() if path.suffix == ".py")
_BINARY = {".gguf", ".safetensors", ".png"}
_LOCAL_PATH = re.compile(r"(?<![\w.~$}/-])/(?:home|root|tmp|work|opt|Users|mnt)/")


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_room_is_linked_into_the_package_and_declared() -> None:
    for room in ROOMS:
        link = ROOT / "ftadvise" / room
        assert link.is_symlink(), f"ftadvise/{room} must be a symbolic link to ../{room}"
        assert link.readlink() == Path("..") / room
        assert f'"ftadvise.{room}" = "{room}"' in pyproject()
        assert f'"ftadvise/{room}"' in pyproject(), f"ruff would read {room} twice"


def test_every_package_folder_is_declared() -> None:
    folders = {path.parent.relative_to(ROOT) for path in SOURCES if path.name == "__init__.py"}
    names = {".".join(folder.parts if folder.parts[0] == "ftadvise" else ("ftadvise", *folder.parts)) for folder in folders}
    assert set(re.findall(r'^    "(ftadvise[\w.]*)",$', pyproject(), re.MULTILINE)) == names


def test_no_source_file_is_longer_than_400_lines() -> None:
    lengths = {_relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert len(lengths) > 50
    assert {name: length for name, length in lengths.items() if length > 400 and not name.startswith("tests/")} == {}


def test_test_files_have_unique_names() -> None:
    """Without __init__.py pytest imports test files by their bare name."""
    counted = Counter(path.name for path in SOURCES if _relative(path).startswith("tests/") and path.name != "conftest.py")
    assert [name for name, count in counted.items() if count > 1] == []


def test_no_file_names_a_path_of_somebody_s_machine() -> None:
    found = []
    for path in our_files():
        if path.suffix in _BINARY or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if _LOCAL_PATH.search(line):
                found.append(f"{_relative(path)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_the_changelog_knows_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(version())}\]", changelog, re.MULTILINE)
