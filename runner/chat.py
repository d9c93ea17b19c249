"""A conversation with a model, streamed. The terminal is the command's business, not this file's."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.runner.answer import GENERATION_WARNINGS, generation_config, open_inputs
from ftadvise.runner.data.rows import Turn
from ftadvise.runner.finished_run import FinishedRun, explaining_memory, load_base, load_run_tokenizer, load_tuned
from ftadvise.runner.quiet import ignoring, quiet_libraries


class Chat:
    """One model and what was said so far.

    Args:
        around: entered while the model answers, e.g. `model.disable_adapter` for the base.
        system: the first turn, kept by `reset`.
        temperature: 0 is greedy; above, answers are drawn with `seed`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 42,
    ) -> None:
        self._model, self._tokenizer, self._around, self._seed = model, tokenizer, around, seed
        self._generation = generation_config(model, tokenizer, max_new_tokens, temperature=temperature)
        self._limit = _limit(model)
        self._opening: list[Turn] = [("system", system)] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.turns: list[Turn] = list(self._opening)

    def reply(self, prompt: str) -> Generator[str, None, None]:
        """The answer, piece by piece. Closing the iterator, or Ctrl-C in it, stops the model; what was said until then is remembered.

        The earliest exchanges are forgotten when the conversation grows longer than the model reads.

        Raises:
            InputError: the prompt alone is longer than that, or the chat template refuses the conversation.
        """
        turns = [*self.turns, ("user", prompt)]
        inputs = self._fitting(turns)
        said: list[str] = []
        try:
            for piece in self._generate(inputs):
                said.append(piece)
                yield piece
        finally:
            self.turns = [*turns, ("assistant", "".join(said).strip())]

    def _fitting(self, turns: list[Turn]) -> Any:
        """The conversation as tokens; up to half of what the model reads is kept for the answer."""
        start, limit = len(self._opening), self._limit
        while True:
            inputs = open_inputs(turns, self._tokenizer)
            length = inputs["input_ids"].shape[1]
            if limit is None or length <= max(limit - self._generation.max_new_tokens, limit // 2):
                return inputs.to(self._model.device)
            if len(turns) <= start + 1:
                raise InputError(f"the prompt has {length} tokens; with the answer the model reads {limit} at most", hint="shorten it")
            del turns[start : start + 2]

    def _generate(self, inputs: Any) -> Iterator[str]:
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

        stopped, failures, settings = threading.Event(), [], copy.copy(self._generation)
        if self._limit is not None:
            settings.max_new_tokens = min(settings.max_new_tokens, self._limit - inputs["input_ids"].shape[1])

        class _Stopped(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                return torch.full((input_ids.shape[0],), stopped.is_set(), device=input_ids.device, dtype=torch.bool)

        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)

        def work() -> None:
            try:
                torch.manual_seed(self._seed)
                with self._around(), ignoring(*GENERATION_WARNINGS):
                    self._model.generate(
                        **inputs,
                        generation_config=settings,
                        streamer=streamer,
                        stopping_criteria=StoppingCriteriaList([_Stopped()]),
                    )
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
                failures.append(error)
                streamer.on_finalized_text("", stream_end=True)

        # a thread of its own, so that Ctrl-C reaches the one that waits
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield from streamer
        finally:
            stopped.set()
            thread.join()
        if failures:
            raise failures[0]


def open_chats(
    run: FinishedRun, device: str, *, base: bool, tuned: bool, trust_remote_code: bool = False, **settings: Any
) -> dict[str, Chat]:
    """Chats with "base" and "tuned", as asked for, in this order. An adapter's base is loaded once for both.

    Args:
        settings: `system`, `max_new_tokens` and `temperature` of each `Chat`.

    Raises:
        InputError: the model cannot be loaded here.
        OutOfMemoryError: it does not fit.
    """
    tokenizer = load_run_tokenizer(run, trust_remote_code=trust_remote_code)
    settings |= {"seed": run.recipe.seed}
    chats: dict[str, Chat] = {}
    with explaining_memory(run, "free memory, or use --base or no --compare"), quiet_libraries():
        shared = load_tuned(run, device, trust_remote_code=trust_remote_code) if tuned else None
        if base and run.adapter is not None and shared is not None:
            chats["base"] = Chat(shared, tokenizer, around=shared.disable_adapter, **settings)
        elif base:
            chats["base"] = Chat(load_base(run, device, trust_remote_code=trust_remote_code), tokenizer, **settings)
        if shared is not None:
            chats["tuned"] = Chat(shared, tokenizer, **settings)
    return chats


def _limit(model: Any) -> int | None:
    """Tokens that the model reads, None where its configuration does not say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 1 else None
