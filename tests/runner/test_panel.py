"""Progress on the screen: live on a terminal, a few lines in a log, never in the way of the training or of the terminal."""

from __future__ import annotations

import io
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from ftadvise.runner.panel_view import Expected, Heading, panel, plain_line, sparkline, summary_line
from ftadvise.runner.progress import Progress

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f]")
EXPECTED = Expected(17 << 30, 24 << 30, 11_900.0)
HEADING = Heading("QLoRA of org/model", 2, "micro_batch 4 → 2")


class _Terminal(io.StringIO):
    """What rich takes for a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class _Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


def _progress(steps: int = 30, total: int = 100) -> Progress:
    progress = Progress(total)
    progress.starts(0, 0.0)
    for step in range(1, steps + 1):
        progress.ends_step(step, 2.0 * step, bytes_in_use=(10 + step % 3) << 30)
        progress.works(4000, 1.6)
        progress.loses(3 - step / 50, 2e-4)
    return progress


def _lines(console: Console, progress: Progress, lang: str = "en", expected: Expected = EXPECTED) -> list[str]:
    with console.capture() as captured:
        console.print(panel(progress, expected, HEADING, lang, console))
    return captured.get().splitlines()


def test_the_figures_add_up() -> None:
    progress = _progress()
    assert progress.seconds_per_step == pytest.approx(2.0)
    assert progress.seconds_left == pytest.approx(140.0)
    assert progress.tokens_per_second == pytest.approx(2500.0)
    assert (progress.bytes_in_use, progress.most_bytes) == (10 << 30, 12 << 30)
    assert progress.smooth_loss == pytest.approx(3 - 22 / 50, abs=0.06)  # it lags about nine steps behind
    progress.evaluates(30, 1.5)
    progress.evaluates(40, 1.7)
    progress.evaluates(50, math.nan)
    assert progress.best_evaluation == (30, 1.5)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=300))
def test_the_smoothed_loss_stays_among_the_losses(losses: list[float]) -> None:
    progress = Progress(10)
    for loss in losses:
        progress.loses(loss, None)
    assert progress.smooth_loss is not None
    assert min(losses) - 1e-6 <= progress.smooth_loss <= max(losses) + 1e-6
    assert len(progress.loss_curve) <= 32


def test_a_loss_that_is_not_a_number_is_shown_and_not_averaged() -> None:
    progress = _progress()
    before = progress.smooth_loss
    progress.loses(math.nan, 2e-4)
    assert progress.smooth_loss == before
    assert "nan" in plain_line(progress, "en")
    assert any("nan" in line for line in _lines(Console(width=80), progress))


@given(st.lists(st.floats(-1e6, 1e6), max_size=50), st.integers(1, 40))
def test_a_sparkline_has_its_highest_bar_at_the_highest_value(values: list[float], width: int) -> None:
    line = sparkline(tuple(values), width)
    shown = values[-width:]
    assert len(line) == len(shown)
    if shown and max(shown) > min(shown):
        assert line[shown.index(max(shown))] == "█"
        assert line[shown.index(min(shown))] == "▁"


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_panel_fits_its_terminal(lang: str, width: int) -> None:
    progress = _progress()
    progress.evaluates(20, 1.5)
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    lines = _lines(console, progress, lang)
    assert len(lines) == 7  # two of the heading; steps, loss, speed, memory, evaluation
    assert max(cell_len(line) for line in lines) <= width
    words = "\n".join(lines)
    for figure in ("30/100", "30 %", "2.4", "2,500", "10.0 GiB", "24.0 GiB", "1.500", "micro_batch 4 → 2"):
        assert figure in words
    assert "17.0 GiB" in words or width == 60  # the last that is cut off
    if lang == "zh":
        assert "步数" in words
        assert "step" not in words


def test_the_memory_bar_marks_what_was_predicted() -> None:
    line = next(line for line in _lines(Console(width=120), _progress()) if "memory" in line)
    bar = re.search("[━─┃]+", line)
    assert bar is not None
    cells = bar.group()
    assert len(cells) == 32
    assert cells.index("┃") == round(32 * 17 / 24)
    assert cells.count("━") == round(32 * 10 / 24)


def test_a_card_that_is_nearly_full_turns_red() -> None:
    progress = _progress(steps=1)
    console = Console(width=100, force_terminal=True, color_system="standard", file=io.StringIO())
    for size, red in ((20 << 30, False), (int(23.9 * (1 << 30)), True)):
        progress.uses(size)
        line = next(line for line in _lines(console, progress) if "GiB of" in line)
        assert ("\x1b[31m" in line) is red


def test_what_is_not_known_is_left_out() -> None:
    progress = Progress(10)
    progress.starts(0, 0.0)
    assert plain_line(progress, "en") == "step 0/10"
    lines = _lines(Console(width=80), progress, expected=Expected())
    assert len(lines) == 3  # heading, attempt, steps
    assert summary_line(progress, 3.0, "en") == "stopped at step 0 of 10 after 3.0 s"


def _callback(console: Console, clock: _Clock, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    pytest.importorskip("transformers")
    from ftadvise.runner import panel as module

    monkeypatch.setattr(module.time, "perf_counter", clock.perf_counter)
    document = {"memory": {"device_used_bytes": 17 << 30}, "throughput": {"tokens_per_second": 11_900.0}}
    return module.Panel(console, predicted=document, card_bytes=24 << 30, **options)


def _train(callback: Any, clock: _Clock, steps: int, total: int, *, seconds: float, evaluate_at: tuple[int, ...] = ()) -> None:
    state = SimpleNamespace(max_steps=total, global_step=0)
    callback.on_train_begin(None, state, None)
    for step in range(1, steps + 1):
        clock.now += seconds
        state.global_step = step
        callback.on_substep_end(None, state, None)
        callback.on_step_end(None, state, None)
        callback.on_log(None, state, None, logs={"loss": 2.0, "learning_rate": 1e-4})
        if step in evaluate_at:
            callback.on_prediction_step(None, state, None)
            callback.on_evaluate(None, state, None, metrics={"eval_loss": 1.25})


def test_a_log_has_about_ten_lines_and_the_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    file, clock = io.StringIO(), _Clock()
    callback = _callback(Console(file=file, width=80), clock, monkeypatch, heading=HEADING)
    _train(callback, clock, 1000, 1000, seconds=0.1, evaluate_at=(500, 1000))
    callback.on_train_end(None, None, None)
    callback.close()  # a second time changes nothing
    lines = file.getvalue().splitlines()
    assert len(lines) == 1 + 10 + 2 + 1
    assert lines[0].startswith("step 1/1,000  loss 2.000  lr 0.0001")
    assert "step 500/1,000  evaluation loss 1.250" in lines
    assert lines[-1].startswith("trained 1,000 steps in 100 s, loss 2.000 → 2.000, evaluation loss 1.250")
    assert not _CONTROL.search(file.getvalue())


def test_a_long_run_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    file, clock = io.StringIO(), _Clock()
    callback = _callback(Console(file=file, width=80), clock, monkeypatch)
    _train(callback, clock, 60, 10_000, seconds=60.0)
    assert len(file.getvalue().splitlines()) == 20  # every three minutes


def test_a_slow_step_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    file, clock = io.StringIO(), _Clock()
    callback = _callback(Console(file=file, width=80), clock, monkeypatch)
    state = SimpleNamespace(max_steps=10, global_step=0)
    callback.on_train_begin(None, state, None)
    for _micro_batch in range(64):
        clock.now += 30.0
        callback.on_substep_end(None, state, None)
    assert file.getvalue().splitlines() == ["step 0/10"] * 10


@pytest.mark.parametrize(
    "console",
    [
        Console(file=io.StringIO(), force_terminal=True, width=80),  # FORCE_COLOR with a pipe
        Console(file=_Terminal(), force_terminal=True, width=80, _environ={"TERM": "dumb"}),
    ],
)
def test_where_nothing_can_be_redrawn_lines_are_printed(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    _train(_callback(console, clock, monkeypatch), clock, 5, 5, seconds=1.0)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 5/5" in written
    assert "\x1b[1A" not in written


def test_the_live_panel_is_redrawn_rarely_and_leaves_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file, clock = _Terminal(), _Clock()
    console = Console(file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    steps: list[Any] = []
    callback = _callback(console, clock, monkeypatch, steps=steps, memory=SimpleNamespace(bytes_in_use=9 << 30), devices=2)
    _train(callback, clock, 400, 400, seconds=0.01)
    drawn = file.getvalue().count("━") + file.getvalue().count("0/400")
    assert file.getvalue().count("/400") <= 2 + 4 / 0.5  # four seconds, at most twice a second
    assert drawn > 0
    callback.close()
    last = file.getvalue().rpartition("\x1b[2K")[2]
    assert re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last).strip().splitlines() == [
        "trained 400 steps in 4.0 s, loss 2.000 → 2.000, memory up to 9.00 GiB"
    ]
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back


def test_the_speed_counts_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, clock = [SimpleNamespace(tokens=1, seconds=99.0)], _Clock()
    callback = _callback(Console(file=io.StringIO()), clock, monkeypatch, steps=steps, devices=2)
    steps.append(SimpleNamespace(tokens=1000, seconds=0.5))
    _train(callback, clock, 1, 10, seconds=0.5)
    assert callback.progress.tokens_per_second == pytest.approx(4000.0)  # what was there before this training does not count


def test_names_cannot_move_the_cursor() -> None:
    heading = Heading("a\x1b[2Jb\rc\u202ed", 2, "x\x1b]0;t\x07")
    console = Console(width=100, file=io.StringIO())
    with console.capture() as captured:
        console.print(panel(_progress(), EXPECTED, heading, "en", console))
    assert not _CONTROL.search(captured.get())
    assert "\u202e" not in captured.get()
