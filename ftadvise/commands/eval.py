"""`ftadvise eval`."""

from __future__ import annotations

from pathlib import Path

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("eval")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--data", metavar="FILE", help="Rows to evaluate on, read as the run read its own (default: those the run held back).")
@click.option("--metrics", metavar="NAMES", help="Some of loss,bleu,rouge,accuracy (default: all that the data allows).")
@click.option("--max-rows", type=click.IntRange(min=0), default=200, show_default=True, help="Rows drawn at random, at most; 0 for all.")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Rows at a time.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Tokens of an answer, at most.")
@click.option("--no-save", is_flag=True, help="Do not keep the result as RUN/eval-NAME.json.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model. Off unless asked for.")
@json_option
@lang_option
def command(
    run_dir: Path,
    data: str | None,
    metrics: str | None,
    max_rows: int,
    batch_size: int,
    max_new_tokens: int,
    no_save: bool,
    trust_remote_code: bool,
    as_json: bool,
    lang: str | None,
) -> None:
    """Measure the model that RUN trained beside its base: loss, perplexity, BLEU, ROUGE, accuracy.

    Loss and perplexity are of the tokens that training would learn. BLEU (sacrebleu) and ROUGE (rouge-score) compare greedy answers with
    those in the data. Accuracy, where the rows have a label, asks which label the model finds likeliest. Each difference comes with a 95 %
    interval from the paired bootstrap.
    """
    from ftadvise.rendering.console import err_console, out_console
    from ftadvise.runner.cpu_process import share_cores
    from ftadvise.runner.evaluate.evaluation import EvalSettings, named_metrics, write_evaluation

    settings = EvalSettings(metrics=named_metrics(metrics), max_rows=max_rows, batch_size=batch_size, max_new_tokens=max_new_tokens)
    console = err_console()

    def say(line: str) -> None:
        console.print(line, style="dim", markup=False)

    from ftadvise.runner.finished_run import default_device, finished_run

    run = finished_run(run_dir, with_base=True, say=say)
    from ftadvise.runner.evaluate.rows import rows_to_evaluate

    found, rows = rows_to_evaluate(run, data)
    share_cores()
    from ftadvise.runner.evaluate.run import evaluate_run

    asked = () if metrics is None else settings.metrics
    evaluation = evaluate_run(
        run, found, rows, settings, device=default_device(), asked=asked, trust_remote_code=trust_remote_code, say=say
    )
    path = None if no_save else write_evaluation(run_dir, evaluation)
    if as_json:
        print_json(evaluation.to_json())
        return
    from ftadvise.rendering.eval_view import eval_view

    out_console().print(eval_view(evaluation, language(lang)))
    if path is not None:
        console.print(str(path), style="dim", markup=False)
