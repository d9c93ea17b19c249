"""Tokens and passwords never reach a message."""

from __future__ import annotations

import pytest

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.secrets import without_secrets

TOKEN = "hf_" + "AbCdEf0123456789" * 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"401 for {TOKEN}.", "401 for ***."),
        (f"https://{TOKEN}@huggingface.co/a/b", "https://***@huggingface.co/a/b"),
        ("https://me:pass@word@example.org/x and git://you@host", "https://***@example.org/x and git://***@host"),
        ("the model hf_tiny at https://huggingface.co/a@b", "the model hf_tiny at https://huggingface.co/a@b"),
        ("", ""),
    ],
)
def test_what_looks_like_a_token_or_a_password_is_taken_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY"])
def test_the_values_of_known_variables_are_taken_out_whatever_they_look_like(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "correct horse battery")
    error = InputError("refused: correct horse battery", hint="try correct horse battery")
    assert (str(error), error.hint) == ("refused: ***", "try ***")
    monkeypatch.setenv(name, "a")
    assert without_secrets("a banana") == "a banana"
