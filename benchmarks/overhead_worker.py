"""One training of `overhead.py` in a process of its own: by hand or through our runner, watched from outside in the same way.

Run by overhead.py: python benchmarks/overhead_worker.py WHICH CASE.json; the last line is what was measured, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WARM_UP = 3
"""Steps that are not counted: the allocator and the optimizer's state settle."""
Run = dict[str, Any]


def _bytes(field: str) -> int:
    """A figure of /proc/self/status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) << 10


class Probe:
    """Watches transformers' Trainer from outside: when each step begins, and memory from before the first to after the last."""

    def __init__(self, *, tensors: bool) -> None:
        self.begins: dict[int, tuple[float, float]] = {}
        self.result: Run = {}
        self._tensors = tensors
        self._watching = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Patch the Trainer."""
        from transformers import Trainer

        train, step = Trainer.train, Trainer.training_step

        def watched_train(trainer: Any, *args: Any, **more: Any) -> Any:
            if self._tensors:
                trainer.add_callback(_tensor_watch(self.result))
            peaks = _memory_begins()
            self._watching = True
            try:
                return train(trainer, *args, **more)
            finally:
                self._watching = False
                self.begins[trainer.state.global_step] = (time.perf_counter(), time.process_time())
                self.result["memory"] = peaks()

        def watched_step(trainer: Any, *args: Any, **more: Any) -> Any:
            # a rehearsal before the first step enters here as well; the last entry counts, so steps are taken from the second on
            if self._watching:
                self.begins.setdefault(trainer.state.global_step, (time.perf_counter(), time.process_time()))
            return step(trainer, *args, **more)

        Trainer.train, Trainer.training_step = watched_train, watched_step
        try:
            yield
        finally:
            Trainer.train, Trainer.training_step = train, step

    def steps(self) -> list[tuple[float, float]]:
        """(wall-clock, processor) seconds of each step after the warm-up: from its first micro batch to the next step's."""
        last = max(self.begins)
        pairs = ((self.begins[n], self.begins[n + 1]) for n in range(WARM_UP, last - 1))  # the last step ends with saving
        return [(after[0] - before[0], after[1] - before[1]) for before, after in pairs]


def _memory_begins() -> Callable[[], int]:
    """Begin a new peak; returns what says how high it was above the beginning."""
    import torch

    if torch.cuda.is_available():
        reset, highest = torch.cuda.reset_peak_memory_stats, [0]

        def remembering(*args: Any) -> None:  # a meter may begin a new peak at any time
            highest[0] = max(highest[0], torch.cuda.max_memory_allocated())
            reset(*args)

        torch.cuda.reset_peak_memory_stats = remembering
        remembering()
        return lambda: max(highest[0], torch.cuda.max_memory_allocated())
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    baseline = _bytes("VmRSS")
    return lambda: _bytes("VmHWM") - baseline


def _tensor_watch(result: Run) -> Any:
    """A callback that follows every tensor that is alive in one step, whoever holds it."""
    import gc

    import torch
    from transformers import TrainerCallback

    from ftadvise.estimator.storage_recorder import StorageRecorder

    class Watch(TrainerCallback):  # type: ignore[misc]
        recorder: Any = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == WARM_UP:
                self.recorder = StorageRecorder(args.device.type)
                gc.collect()
                self.recorder.adopt([each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)], "before")
                self.recorder.__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.recorder is not None:
                self.recorder.__exit__(None, None, None)
                result["tensors"] = max(moment.total_bytes for moment in self.recorder.peaks().values())
                self.recorder = None

    return Watch()


# The two trainings.


def train_by_hand(case: Run) -> None:
    """What one would write with TRL and PEFT."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    recipe, device = case["recipe"], case["device"]
    set_seed(recipe["seed"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[recipe["compute_dtype"]]
    tokenizer = AutoTokenizer.from_pretrained(case["model"])
    rows = []
    for line in Path(case["data"]).read_text(encoding="utf-8").splitlines():
        ids = tokenizer(json.loads(line)["text"] + tokenizer.eos_token)["input_ids"]
        rows.append({"input_ids": ids, "labels": list(ids)})
    model = AutoModelForCausalLM.from_pretrained(case["model"], dtype=dtype, device_map={"": 0} if device == "cuda" else None)
    model.config.use_cache = False
    lora = LoraConfig(
        r=recipe["rank"],
        lora_alpha=recipe["alpha"],
        lora_dropout=recipe["dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    config = SFTConfig(
        output_dir=case["out"],
        per_device_train_batch_size=recipe["micro_batch"],
        gradient_accumulation_steps=recipe["gradient_accumulation"],
        max_length=recipe["seq_len"],
        optim="adamw_torch",
        learning_rate=recipe["learning_rate"],
        lr_scheduler_type=recipe["schedule"],
        max_steps=recipe["max_steps"],
        seed=recipe["seed"],
        bf16=recipe["compute_dtype"] == "bf16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        gradient_checkpointing=False,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        save_strategy="steps",
        save_steps=0.2,
        save_total_limit=1,
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora)
    trainer.train()


def train_with_ftadvise(case: Run) -> None:
    """The same through our runner, in this process: the supervisor beside it neither trains nor holds a model."""
    from rich.console import Console

    from ftadvise.estimator.data_settings import DataSettings
    from ftadvise.estimator.plan_file import MadeFor, PlanFile
    from ftadvise.estimator.recipe import Recipe
    from ftadvise.profiles.probe import probe
    from ftadvise.runner.supervisor import in_this_process, run_plan

    hardware = probe()
    plan = PlanFile(
        model_id="overhead",
        parameters=1,
        local_path=case["model"],
        made_for=MadeFor.of(hardware),
        stack={"name": "trl", "versions": {}},
        recipe=Recipe(**case["recipe"]),
        data=DataSettings(case["data"]),
        predicted={"memory": {}, "throughput": None},
        ftadvise_version="",
    )
    console = Console(stderr=True)
    run_plan(plan, out_dir=Path(case["out"]), hardware=hardware, console=console, start=in_this_process(hardware, console))


TRAININGS = {"by hand": train_by_hand, "ftadvise": train_with_ftadvise}


def in_process(which: str, case: Run) -> None:
    """One training in this process; the last line says what was measured."""
    probe = Probe(tensors=case["tensors"])
    with probe.watching(), _timing_callbacks(case["callbacks"]) as spent:
        TRAININGS[which](case)
    print(json.dumps({**probe.result, "steps": probe.steps(), "callbacks": dict(spent)}))


@contextmanager
def _timing_callbacks(wanted: bool) -> Iterator[dict[str, float]]:
    """Seconds that each callback takes from the end of the warm-up to the last step."""
    from transformers.trainer_callback import CallbackHandler

    spent: dict[str, float] = defaultdict(float)
    original = CallbackHandler.call_event

    def timed(handler: Any, event: str, args: Any, state: Any, control: Any, **more: Any) -> Any:
        for callback in handler.callbacks:
            method = getattr(callback, event)
            if state.global_step < WARM_UP or event in ("on_train_begin", "on_train_end", "on_save") or hasattr(method, "timed"):
                continue

            def wrapped(*given: Any, _method: Any = method, _name: str = type(callback).__name__, **kwargs: Any) -> Any:
                begin = time.perf_counter()
                try:
                    return _method(*given, **kwargs)
                finally:
                    spent[_name] += time.perf_counter() - begin

            wrapped.timed = True  # type: ignore[attr-defined]
            setattr(callback, event, wrapped)
        return original(handler, event, args, state, control, **more)

    if wanted:
        CallbackHandler.call_event = timed
    try:
        yield spent
    finally:
        CallbackHandler.call_event = original


if __name__ == "__main__":
    in_process(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
