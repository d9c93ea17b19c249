"""Before training: find or make the weights, turn rows into tokens, load the model. Imports torch inside functions only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.json_objects import read_json_object
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.runner.data import Row
from ftadvise.runner.durable import NEW
from ftadvise.runner.job import Job
from ftadvise.runner.tokens import TokenStats, tokenize_rows

Example = dict[str, list[int]]
"""`input_ids` and `labels` of one row."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training starts from.

    `base_name` is how the adapter will name its base model; `prompt` a prompt of the data worth answering before and after, None
    when there is none or the weights are random.
    """

    model: Any
    tokenizer: Any
    rows: list[Example]
    eval_rows: list[Example]
    stats: TokenStats
    base_name: str
    load_peak_bytes: int
    prompt: str | None


def prepare(job: Job) -> Prepared:
    """Weights, tokens and the loaded model. Rows are tokenised before the weights are read: a mistake in the data costs seconds.

    Raises:
        InputError: weights, tokenizer or data are missing or unusable.
    """
    return _rehearsal(job) if job.rehearse else _pretrained(job)


def _pretrained(job: Job) -> Prepared:
    from ftadvise.runner.load_model import check_remote_code, check_vocabulary, load_model, load_tokenizer
    from ftadvise.runner.weights import base_model_name, find_model_folder

    def say(line: str) -> None:
        job.console.print(line, markup=False, highlight=False)

    folder = find_model_folder(job.plan_file, trust_remote_code=job.trust_remote_code, allow_pickle=job.request.allow_pickle, say=say)
    spec = spec_from_config(read_json_object(folder / "config.json"), source=str(folder / "config.json"))  # refuses impossible numbers
    check_remote_code(folder, trusted=job.trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=job.trust_remote_code)
    if tokenizer is None:
        raise InputError(f"{folder}: has no tokenizer (tokenizer.json)", hint="put the model's tokenizer files into that folder")
    if tokenizer.eos_token is None:
        say("the tokenizer has no end token: the model will not learn where an answer ends")
    rows, eval_rows, stats = _tokens(job, tokenizer)
    unknown = check_vocabulary(tokenizer, [*rows, *eval_rows], spec.vocab_size, str(folder))
    if unknown:
        say(unknown)
    with _load_peak(job.device) as peak:
        model = load_model(folder, job.recipe, job.device, trust_remote_code=job.trust_remote_code)
    prompt = next((row.prompt for row in job.data.rows if row.prompt), None)
    return Prepared(model, tokenizer, rows, eval_rows, stats, base_model_name(job.plan_file, folder), peak(model), prompt)


def _rehearsal(job: Job) -> Prepared:
    """The same with random weights; without a tokenizer at hand, random tokens of the full length."""
    from ftadvise.runner.load_model import check_remote_code, load_model, load_tokenizer
    from ftadvise.runner.rehearse import random_checkpoint, synthetic_rows, synthetic_tokenizer, write_config_from_spec
    from ftadvise.runner.weights import find_config_folder

    recipe, trusted = job.recipe, job.trust_remote_code
    with tempfile.TemporaryDirectory(dir=job.out_dir, prefix=NEW) as made_up:
        config_folder = find_config_folder(job.plan_file)
        if config_folder is None:
            from ftadvise.profiles.resolve_model import resolve_model

            config_folder = Path(made_up)
            write_config_from_spec(resolve_model(job.plan_file.model_id, offline=True), config_folder)
        check_remote_code(config_folder, trusted=trusted)
        tokenizer = load_tokenizer(config_folder, trust_remote_code=trusted)
        with random_checkpoint(config_folder, recipe, job.out_dir, trust_remote_code=trusted) as folder, _load_peak(job.device) as peak:
            model = load_model(folder, recipe, job.device, trust_remote_code=trusted)
    vocabulary = model.get_input_embeddings().num_embeddings
    if tokenizer is not None and len(tokenizer) <= vocabulary:
        rows, _eval_rows, stats = _tokens(job, tokenizer)
    else:
        tokenizer = synthetic_tokenizer(vocabulary)
        rows = synthetic_rows(vocabulary, recipe.seq_len, recipe.sequences_per_step, recipe.seed)
        stats = TokenStats(len(rows), recipe.seq_len, recipe.seq_len, recipe.seq_len, len(rows) * recipe.seq_len, 0)
    return Prepared(model, tokenizer, rows, [], stats, job.plan_file.model_id, peak(model), None)


def _tokens(job: Job, tokenizer: Any) -> tuple[list[Example], list[Example], TokenStats]:
    """Rows to train on, rows to evaluate on, and the lengths of the former."""
    settings = job.plan_file.data

    def tokens(rows: Sequence[Row]) -> tuple[list[Example], TokenStats]:
        return tokenize_rows(rows, tokenizer, job.recipe.seq_len, learn=settings.learn, template=settings.template)

    rows, stats = tokens(job.data.rows)
    return rows, tokens(job.data.eval_rows)[0] if job.data.eval_rows else [], stats


@contextmanager
def _load_peak(device: str) -> Iterator[Any]:
    """Yields a function of the loaded model: peak bytes while loading (CUDA), or what the model holds afterwards (CPU).

    On the CPU the loader's threads cannot be metered, so transient copies are not in the figure.
    """
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield lambda _model: int(torch.cuda.max_memory_allocated())
        return
    yield lambda model: sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.parameters()}.values())
