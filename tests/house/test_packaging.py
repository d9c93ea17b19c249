"""What a user installs: the built distributions, not the working tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from house import ROOMS, ROOT, our_files, version

_HOOK = "import sys; from setuptools import build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"


def _build(hook: str, tree: Path, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", _HOOK, hook, str(out)], cwd=tree, check=True, capture_output=True, text=True)
    return out / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, built from a copy so that the working tree stays as it is."""
    pytest.importorskip("setuptools", minversion="77")
    tree = tmp_path_factory.mktemp("tree") / "ftadvise"
    ignored = shutil.ignore_patterns(".git", ".venv*", "*.egg-info", "__pycache__", ".*cache", "build", "dist", "ftadvise-runs", "tests")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
    return _build("build_sdist", tree, tree.parent / "dist")


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that pip would build out of the source distribution."""
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(sdist.parent, filter="data")
        else:
            archive.extractall(sdist.parent)  # noqa: S202 - an archive we have just made
    return _build("build_wheel", sdist.parent / sdist.name.removesuffix(".tar.gz"), sdist.parent)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which only the wheel was installed."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return target


def _expected(in_wheel: bool) -> set[PurePosixPath]:
    """Where each of our package files belongs: rooms lie beside ftadvise/ in the repository and inside it in the wheel."""
    found = set()
    for path in our_files():
        inside = PurePosixPath(path.relative_to(ROOT).as_posix())
        if inside.parts[0] in ROOMS:
            found.add("ftadvise" / inside if in_wheel else inside)
        elif inside.parts[0] == "ftadvise":
            found.add(inside)
    return found


def test_the_wheel_holds_every_file_of_every_room_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {PurePosixPath(name) for name in archive.namelist()}
    expected = _expected(in_wheel=True)
    assert {path.suffix for path in expected} >= {".py", ".yaml", ".jsonl", ".typed"}
    assert {path for path in packed if path.parts[0] == "ftadvise"} == expected
    assert {path.parts[0] for path in packed} == {"ftadvise", f"ftadvise-{version()}.dist-info"}


def test_the_source_distribution_builds_without_the_repository(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    assert packed >= _expected(in_wheel=False)
    assert packed >= {PurePosixPath(name) for name in ("pyproject.toml", "LICENSE", "README.md")}


def test_rooms_are_importable_only_under_our_own_name(installed: Path) -> None:
    """`pip install rules` must never overwrite our rules: no generic name at the top level."""
    assert {path.name for path in installed.iterdir()} - {"bin"} == {"ftadvise", f"ftadvise-{version()}.dist-info"}
    code = (
        f"import importlib; [importlib.import_module('ftadvise.' + room) for room in {ROOMS!r}]; import ftadvise; print(ftadvise.__file__)"
    )
    # -S leaves site-packages out, so that nothing but the installed wheel can answer
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env={"PYTHONPATH": str(installed)},
    )
    assert Path(done.stdout.strip()).parent == installed / "ftadvise"


def test_the_base_installation_brings_no_training_library(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"ftadvise-{version()}.dist-info/METADATA").decode()
    required = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    base = " ".join(line for line in required if "extra ==" not in line)
    run = " ".join(line for line in required if "extra == 'run'" in line or 'extra == "run"' in line)
    training = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")
    assert [name for name in training if name in base] == []
    assert [name for name in training if name not in run] == []
