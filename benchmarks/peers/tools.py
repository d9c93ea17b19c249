"""The tools of tools.yaml, each installed into an environment of its own and asked in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_TOOLS = Path(__file__).with_name("tools.yaml")
# None of the tools needs torch today; should one come to, pip must not take the build with gigabytes of CUDA libraries.
_CONSTRAINTS = ROOT / "constraints-cpu.txt"
_INSTALL_SECONDS = 600
_RUN_SECONDS = 300


class ToolError(Exception):
    """A tool could not be installed or did not answer; the message is one line."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One entry of tools.yaml."""

    package: str
    version: str
    adapter: str
    about: str
    source: str

    @property
    def requirement(self) -> str:
        """Pinned, as pip takes it."""
        return f"{self.package}=={self.version}"


def read_tools() -> list[Tool]:
    """The tools in the order of tools.yaml."""
    return [Tool(**entry) for entry in yaml.safe_load(_TOOLS.read_text(encoding="utf-8"))["tools"]]


def install(tool: Tool, environments: Path) -> Path:
    """The Python of the tool's environment, which is made when it is not there at this version.

    Raises:
        ToolError: venv or pip fails.
    """
    folder = environments / tool.package
    python = folder / "bin" / "python"
    installed = folder / "installed.txt"
    if installed.is_file() and installed.read_text(encoding="utf-8") == tool.requirement:
        return python
    _checked([sys.executable, "-m", "venv", "--clear", str(folder)], f"no environment for {tool.package}", _INSTALL_SECONDS)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", str(_CONSTRAINTS)]
    _checked([*pip, tool.requirement], f"{tool.requirement} cannot be installed", _INSTALL_SECONDS)
    installed.write_text(tool.requirement, encoding="utf-8")
    return python


def ask(tool: Tool, python: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The worker's {"version", "answers"} for these cases. The process is told to leave the hub alone.

    Raises:
        ToolError: the process fails or does not answer each case.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-m", "benchmarks.peers.worker", tool.adapter, tool.package]
    output = _checked(command, f"{tool.package} failed", _RUN_SECONDS, given=json.dumps(cases), environment=environment)
    found: dict[str, Any] = json.loads(output)
    if len(found["answers"]) != len(cases):
        raise ToolError(f"{tool.package} answered {len(found['answers'])} of {len(cases)} rows")
    return found


def _checked(command: list[str], failure: str, seconds: int, *, given: str = "", environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=seconds, env=environment, check=True)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no message").splitlines()[-1]
        raise ToolError(f"{failure}: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{failure}: {error}") from error
    return done.stdout
