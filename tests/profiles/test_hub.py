"""The hub, played by a small server on the loopback: what is read, what is asked for, and every way to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ftadvise.profiles.hub import is_hub_id

SHA = "0123456789abcdef0123456789abcdef01234567"
CREDENTIAL = "hf_0123456789"
CONFIG = {
    "model_type": "novel",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
CONFIGS = {
    "org/good": json.dumps(CONFIG).encode(),
    "org/packed": json.dumps(CONFIG).encode(),
    "org/empty": b"",
    "org/huge": b"{" + b" " * (5 << 20) + b"}",
    "org/zero": json.dumps(CONFIG | {"num_attention_heads": 0}).encode(),
}
TOTALS = {"org/packed": {"U8": 12_345, "BF16": 100}}
ASK = """
import json, sys
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hub import spec_from_hub
answers = {}
for name in sys.argv[1:]:
    try:
        spec = spec_from_hub(name)
        answers[name] = [spec.id, spec.total_params, spec.license, spec.gated, spec.origin, spec.confidence, spec.local_path]
    except InputError as error:
        answers[name] = str(error) + " | " + str(error.hint)
print(json.dumps(answers))
"""


class _Hub(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, dict[str, str]]]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        type(self).seen.append((self.command, self.path, dict(self.headers)))
        if self.path.startswith("/api/models/"):
            repo = self.path.removeprefix("/api/models/").split("?")[0]
            if repo == "org/gated":
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
            elif repo == "org/refused":
                self._send(403, b"{}")
            elif repo == "org/broken":
                self._send(500, b"{}")
            elif repo == "org/nonsense":
                self._send(200, b"<html>not a hub</html>")
            elif repo == "org/list":
                self._send(200, b"[1]")
            elif repo in CONFIGS or repo == "org/no-config":
                self._send(200, json.dumps(self._info(repo)).encode())
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            repo = "/".join(self.path.split("/")[1:3])
            if repo in CONFIGS and self.path.endswith("/resolve/main/config.json"):
                self._send(200, CONFIGS[repo], {"ETag": f'"{repo[4:]}"', "X-Repo-Commit": SHA})
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _info(self, repo: str) -> dict[str, Any]:
        parameters = TOTALS.get(repo, {"BF16": 90_000, "F32": 1_000})
        safetensors = {"parameters": parameters, "total": sum(parameters.values())}
        return {"id": repo, "sha": SHA, "siblings": [], "safetensors": safetensors, "gated": "manual", "cardData": {"license": "mit"}}

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    _Hub.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def _ask(endpoint: str, home: Path, *names: str, **environment: str) -> dict[str, Any]:
    """Asks in a fresh process, because huggingface_hub reads its environment when it is imported."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    result = subprocess.run(
        [sys.executable, "-c", ASK, *names],
        env=inherited | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "*", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers: dict[str, Any] = json.loads(result.stdout)
    return answers | {"stderr": result.stderr}


def test_config_and_totals_are_read_then_cached(hub: str, tmp_path: Path) -> None:
    good = _ask(hub, tmp_path, "org/good", HF_TOKEN=CREDENTIAL)["org/good"]
    assert good == ["org/good", 91_000, "mit", True, "hub", "medium", None]
    assert all(headers.get("Authorization", headers.get("authorization")) == f"Bearer {CREDENTIAL}" for _, _, headers in _Hub.seen)
    assert {path.rpartition("/")[2].split("?")[0] for _, path, _ in _Hub.seen} == {"good", "config.json"}

    _Hub.seen.clear()
    offline = _ask(hub, tmp_path, "org/good", "org/packed", HF_HUB_OFFLINE="1")
    assert offline["org/good"][0] == "org/good"
    assert "offline" in offline["org/packed"]
    assert _Hub.seen == []


def test_packed_checkpoints_do_not_count(hub: str, tmp_path: Path) -> None:
    _, total, *_ = _ask(hub, tmp_path, "org/packed")["org/packed"]
    assert total == 2 * 100 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128) + 5 * 64  # counted by formula


def test_every_failure_is_one_explained_line(hub: str, tmp_path: Path) -> None:
    expected = {
        "org/gated": "gated",
        "org/refused": "refuses access",
        "org/missing": "not on the hub",
        "org/no-config": "no config.json",
        "org/broken": "HTTP 500",
        "org/nonsense": "cannot be reached",
        "org/list": "cannot be reached",
        "org/empty": "empty",
        "org/huge": "larger than any config.json",
        "org/zero": "num_attention_heads is 0",
        "no-organisation": "not a hub id",
        "../../etc": "not a hub id",
    }
    answers = _ask(hub, tmp_path, *expected, HF_TOKEN=CREDENTIAL)
    for name, words in expected.items():
        assert words in answers[name], name
        assert "\n" not in answers[name]
        assert CREDENTIAL not in answers[name] + answers["stderr"]
        assert not name.startswith("org/") or "org/" in answers[name]
    assert "HF_TOKEN" in answers["org/gated"]
    assert not any("huge" in path and command == "GET" and "api" not in path for command, path, _ in _Hub.seen)


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    answer = _ask("http://127.0.0.1:9", tmp_path, "org/good")["org/good"]
    assert "cannot be reached" in answer
    assert "HF_ENDPOINT" in answer


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("Qwen/Qwen-7B", True),
        ("a/b.c_d-e", True),
        ("Qwen", False),
        ("a/b/c", False),
        ("a/..", False),
        ("a b/c", False),
        ("a/b\n", False),
        ("é/x", False),
    ],
)
def test_hub_ids(name: str, answer: bool) -> None:
    assert is_hub_id(name) is answer


@pytest.mark.parametrize("name", ["0/.", "a/b-", "-a/b", "a/.b", "a..b/c", "a--b/c", "a/" + "b" * 96, "a", "a/b/c", "a/ b"])
def test_what_the_hub_would_refuse_is_not_a_hub_id(name: str) -> None:
    assert not is_hub_id(name)
