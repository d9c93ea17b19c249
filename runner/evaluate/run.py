"""`evaluate_run`: the base model and the trained one on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.rows import Row, RowSet, Turn
from ftadvise.runner.evaluate.answers import greedy_answers
from ftadvise.runner.evaluate.classes import classes_of, flattened, hits, most_frequent, percent, variants
from ftadvise.runner.evaluate.evaluation import EvalSettings, Evaluation, Sample
from ftadvise.runner.evaluate.losses import Encoded, mean_loss, row_losses
from ftadvise.runner.evaluate.paired import Measure, paired
from ftadvise.runner.evaluate.rows import drawn, encoded, question
from ftadvise.runner.evaluate.text_scores import ROUGE_TYPES, Bleu, Rouge, check_text_libraries
from ftadvise.runner.finished_run import FinishedRun, explaining_memory, load_base, load_run_tokenizer, load_tuned
from ftadvise.runner.quiet import quiet_libraries

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAMPLES = 3
_LIBRARIES = ("ftadvise", "torch", "transformers", "peft", "bitsandbytes", "sacrebleu", "rouge-score")


@dataclass(slots=True)
class _Task:
    """What both models have to do, prepared before any weights are read."""

    rows: list[Row]
    tokens: list[Encoded]
    prompts: list[Sequence[Turn]] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    class_rows: list[Row] = field(default_factory=list)
    class_tokens: list[Encoded] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Done:
    """What one model did."""

    losses: NDArray[np.float64] | None = None
    answers: list[str] = field(default_factory=list)
    class_losses: NDArray[np.float64] | None = None


def evaluate_run(
    run: FinishedRun,
    data: RowSet,
    rows: Sequence[Row],
    settings: EvalSettings,
    *,
    device: str,
    asked: Sequence[str] = (),
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Evaluation:
    """Measure the base model and the trained one on the same rows; an adapter's base is loaded once for both.

    Args:
        data, rows: as of `rows_to_evaluate`. The run must have been opened with its base.
        asked: metrics that must be measured: one that cannot be is an error, not a note.
        say: told before anything that takes long.

    Raises:
        InputError: nothing to evaluate, a metric that was asked for cannot be measured, or a model cannot be loaded.
        OutOfMemoryError: the batch does not fit.
    """
    tokenizer = load_run_tokenizer(run, trust_remote_code=trust_remote_code)
    chosen = drawn(rows, settings.max_rows, run.recipe.seed)
    task = _task(run, data, chosen, settings, tokenizer)
    for metric in asked:
        if metric in task.skipped:
            raise InputError(f"{metric} cannot be measured: {task.skipped[metric]}")
    done: dict[str, _Done] = {}
    with explaining_memory(run, "lower --batch-size"), quiet_libraries():
        for name, model, around in _models(run, device, trust_remote_code, say):
            with around():
                done[name] = _do(task, run, model, tokenizer, settings, lambda line, name=name: say(f"{name}: {line}"))  # type: ignore[misc]
            del model
    measures = []
    for measure in _measures(task, done["base"], done["tuned"], settings, run.recipe.seed):
        wrong = [name for name, value in (("base", measure.base), ("tuned", measure.tuned)) if not math.isfinite(value)]
        if wrong:
            task.skipped[measure.name] = f"it is not a number for {' and '.join(wrong)}"
        else:
            measures.append(measure)
    learned = str(run.report.data.get("sha256"))
    trained_on = rows is data.rows and learned == data.sha256
    return Evaluation(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        run=str(run.folder),
        model=run.base_id,
        recipe=run.recipe.label,
        device=device,
        data={
            "path": data.path,
            "sha256": data.sha256,
            "rows": len(rows),
            "evaluated": len(task.rows),
            "left_out": len(chosen) - len(task.rows),
            "trained_on": trained_on,
        },
        settings={
            "metrics": list(settings.metrics),
            "max_rows": settings.max_rows,
            "batch_size": settings.batch_size,
            "max_new_tokens": settings.max_new_tokens,
            "seq_len": run.recipe.seq_len,
            "seed": run.recipe.seed,
        },
        measures=tuple(measures),
        skipped=task.skipped,
        samples=_samples(task, done),
        versions=_versions(),
    )


def _task(run: FinishedRun, data: RowSet, chosen: list[Row], settings: EvalSettings, tokenizer: Any) -> _Task:
    tokens = encoded(chosen, run, tokenizer)
    kept = [(row, ids) for row, ids in zip(chosen, tokens, strict=True) if ids is not None]
    task = _Task([row for row, _ in kept], [ids for _, ids in kept])
    for metric in ("bleu", "rouge"):
        if metric in settings.metrics:
            try:
                check_text_libraries(metric)
                if not any(question(row) for row in task.rows):
                    raise InputError("no row ends with an answer")
            except InputError as error:
                task.skipped[metric] = str(error)
    if {"bleu", "rouge"} & (set(settings.metrics) - set(task.skipped)):
        asked = [pair for row in task.rows if (pair := question(row)) is not None]
        task.prompts, task.references = [list(turns) for turns, _ in asked], [reference for _, reference in asked]
    if "accuracy" in settings.metrics:
        try:
            _add_classes(task, run, data, tokenizer)
        except InputError as error:
            task.skipped["accuracy"] = str(error)
    return task


def _add_classes(task: _Task, run: FinishedRun, data: RowSet, tokenizer: Any) -> None:
    classes = classes_of(task.rows, data.labels)
    labelled = [row for row in task.rows if row.label is not None]
    choices = [(row, encoded(variants(row, classes), run, tokenizer)) for row in labelled]
    complete = [(row, [each for each in choice if each is not None]) for row, choice in choices if None not in choice]
    if not complete:
        raise InputError(f"within seq_len {run.recipe.seq_len} no row has room for every class")
    task.classes = classes
    task.class_rows, task.class_tokens = [row for row, _ in complete], flattened([choice for _, choice in complete])


def _models(run: FinishedRun, device: str, trusted: bool, say: Callable[[str], None]) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """("base" and "tuned", the model, what to enter while it works), one after the other."""
    say(f"loading {run.base_id}")
    if run.adapter is not None:
        model = load_tuned(run, device, trust_remote_code=trusted)
        yield "base", model, model.disable_adapter
        yield "tuned", model, nullcontext
        return
    yield "base", load_base(run, device, trust_remote_code=trusted), nullcontext  # freed before the other is loaded
    say("loading the trained model")
    yield "tuned", load_tuned(run, device, trust_remote_code=trusted), nullcontext


def _do(task: _Task, run: FinishedRun, model: Any, tokenizer: Any, settings: EvalSettings, say: Callable[[str], None]) -> _Done:
    done, dtype = _Done(), run.recipe.compute_dtype
    if "loss" in settings.metrics:
        say(f"loss of {len(task.tokens)} rows")
        done.losses = row_losses(model, task.tokens, batch_size=settings.batch_size, compute_dtype=dtype)
    if task.class_tokens:
        say(f"{len(task.classes)} classes of {len(task.class_rows)} rows")
        done.class_losses = row_losses(model, task.class_tokens, batch_size=settings.batch_size, compute_dtype=dtype)
    if task.prompts:
        say(f"{len(task.prompts)} answers")
        at_once = 1 if run.recipe.method in ("prefix", "prompt") else settings.batch_size
        lengths = {"max_new_tokens": settings.max_new_tokens, "seq_len": run.recipe.seq_len, "batch_size": at_once}
        done.answers = greedy_answers(model, tokenizer, task.prompts, compute_dtype=dtype, **lengths)
    return done


def _measures(task: _Task, base: _Done, tuned: _Done, settings: EvalSettings, seed: int) -> Iterator[Measure]:
    if base.losses is not None and tuned.losses is not None:
        how = "nats per learned token"
        yield paired("loss", base.losses, tuned.losses, mean_loss, seed=seed, how=how, lower_is_better=True)
        perplexity = lambda sums: math.exp(min(mean_loss(sums), 700.0))  # noqa: E731 - beyond, a float has no room
        yield paired("perplexity", base.losses, tuned.losses, perplexity, seed=seed, how="exp of the loss", lower_is_better=True)
    if task.prompts and "bleu" in settings.metrics and "bleu" not in task.skipped:
        bleu = Bleu(task.references)
        counted = [bleu.statistics(side.answers, task.references) for side in (base, tuned)]
        yield paired("bleu", counted[0], counted[1], bleu.value, seed=seed, how=bleu.how)
    if task.prompts and "rouge" in settings.metrics and "rouge" not in task.skipped:
        rouge = Rouge(task.references)
        of_base, of_tuned = (rouge.statistics(side.answers, task.references) for side in (base, tuned))
        count = len(task.references)
        for place, name in enumerate(ROUGE_TYPES):
            column = slice(place, place + 1)
            yield paired(name, of_base[:, column], of_tuned[:, column], lambda sums: float(sums[0]) / count, seed=seed, how=rouge.how)
    if base.class_losses is not None and tuned.class_losses is not None:
        hit = [hits(losses, task.class_rows, task.classes) for losses in (base.class_losses, tuned.class_losses)]
        how = f"likeliest of {len(task.classes)} classes, %; always the most frequent one: {most_frequent(task.class_rows):.1f}"
        yield paired("accuracy", hit[0], hit[1], percent, seed=seed, how=how)


def _samples(task: _Task, done: dict[str, _Done]) -> tuple[Sample, ...]:
    answers = zip(task.prompts, task.references, done["base"].answers, done["tuned"].answers, strict=True)
    return tuple(Sample(turns[-1][1], reference, base, tuned) for turns, reference, base, tuned in list(answers)[:_SAMPLES])


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
