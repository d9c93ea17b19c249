"""A finished run, opened again: its report, its recipe, what it trained and the base it was trained on. Safetensors only."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ftadvise.estimator.data_settings import KINDS, DataSettings, data_settings_from
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Dtype, Recipe
from ftadvise.profiles.errors import InputError, OutOfMemoryError
from ftadvise.runner.chat_template import use_template
from ftadvise.runner.report import REPORT_NAME, RunReport, read_report, recipe_of
from ftadvise.runner.supported import check_installed
from ftadvise.runner.weights import find_model_folder, missing_files

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FOLDERS = ("adapter", "model")
_AGAIN = "train it again; the plan is kept in its report"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What is needed to use a trained model. `adapter` is None after full fine-tuning, `model` is None otherwise.

    `base` is the folder of the base model. Full fine-tuning does not need its base any more: there it is None unless asked for.
    """

    folder: Path
    report: RunReport
    recipe: Recipe
    adapter: Path | None
    model: Path | None
    base: Path | None

    @property
    def trained(self) -> Path:
        """The folder with the trained weights and the tokenizer: `adapter` or `model`."""
        folder = self.adapter or self.model
        assert folder is not None  # noqa: S101 - finished_run sets one of them
        return folder

    @property
    def base_id(self) -> str:
        """The base model's name in the plan."""
        return str(self.report.model["id"])


@dataclass(frozen=True, slots=True)
class _Source:
    """What `find_model_folder` reads of a plan. A report may be older than the schema of plans, so no more of it is read."""

    model_id: str
    local_path: str | None


def finished_run(run_dir: Path, *, with_base: bool = False, say: Callable[[str], None] = lambda _line: None) -> FinishedRun:
    """Open the run in `run_dir` and check that everything it needs is there; loads no weights.

    Args:
        with_base: find the base of a fully fine-tuned model as well (an adapter's base is always found).
        say: told before anything that takes long, such as a download of the base.

    Raises:
        InputError: not finished, a rehearsal, the trained weights are missing or damaged, or the base is gone.
    """
    report = read_report(run_dir)
    if report.rehearsal:
        raise InputError(f"{run_dir}: a rehearsal trains random weights and saves none", hint="ftadvise run PLAN --out FOLDER")
    if report.saved not in _FOLDERS:
        raise InputError(f"{run_dir / REPORT_NAME}: the run saved no weights", hint=_AGAIN)
    recipe = recipe_of(report)
    trained = run_dir / report.saved
    if not trained.is_dir():
        raise InputError(f"{trained}: the trained weights are gone", hint=_AGAIN)
    is_adapter = report.saved == "adapter"
    (_check_adapter if is_adapter else _check_model)(trained)
    base = _base_folder(run_dir, report, say) if is_adapter or with_base else None
    return FinishedRun(run_dir, report, recipe, trained if is_adapter else None, None if is_adapter else trained, base)


def data_settings_of(report: RunReport) -> DataSettings:
    """How the run read its data; the defaults where a report of an older version does not say.

    Raises:
        InputError: a value out of range.
    """
    section = report.plan.get("data")
    values = section if isinstance(section, dict) else {}
    return data_settings_from({key: value for key, value in values.items() if key in KINDS and isinstance(value, KINDS[key][0])})


def default_device() -> str:
    """ "cuda" when torch sees a GPU, else "cpu"."""
    check_installed()
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_base(run: FinishedRun, device: str, *, quantized: bool = True, dtype: Dtype | None = None, trust_remote_code: bool = False) -> Any:
    """The base model ready to answer: in the recipe's dtype and quantisation, or unquantised, or in another `dtype`.

    Raises:
        InputError: it cannot be loaded here.
    """
    if run.base is None:
        raise InputError(f"{run.folder}: the base model was not looked for")
    return _load(run.base, recipe_here(run.recipe, device, quantized=quantized, dtype=dtype), device, trust_remote_code)


def load_tuned(
    run: FinishedRun, device: str, *, quantized: bool = True, dtype: Dtype | None = None, trust_remote_code: bool = False
) -> Any:
    """The trained model ready to answer: the base with its adapter as a `PeftModel`, or the fully fine-tuned model.

    With a PeftModel, `with model.disable_adapter():` is the base, without loading it a second time. Adapter weights are held in fp32,
    which holds each saved value exactly.

    Raises:
        InputError: base or adapter cannot be loaded here, or do not belong together.
    """
    if run.adapter is None:
        return _load(run.trained, recipe_here(run.recipe, device, quantized=quantized, dtype=dtype), device, trust_remote_code)
    return with_adapter(load_base(run, device, quantized=quantized, dtype=dtype, trust_remote_code=trust_remote_code), run.adapter, device)


_HARMLESS = (
    r"`is_gradient_checkpointing` is deprecated",  # one library calling another's old name
    r"The following rank_pattern keys did not match",  # AdaLoRA's name parameters where PEFT looks for modules
)


def with_adapter(base: Any, adapter: Path, device: str) -> Any:
    """`base` with the PEFT adapter in a folder, in evaluation mode.

    Raises:
        InputError: the adapter is not for this base, or its configuration is broken.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    from ftadvise.runner.quiet import ignoring, quiet_libraries

    _register_own_tuners()
    try:
        # PEFT warns of keys that are missing and goes on with random numbers in their place: that must be an error
        with quiet_libraries(), ignoring(*_HARMLESS), _missing_keys_are_errors():
            model = PeftModel.from_pretrained(base, str(adapter), is_trainable=False, torch_device=device)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{adapter}: the adapter cannot be put on its base ({reason})", hint=_AGAIN) from None
    return model.eval()


@contextlib.contextmanager
def explaining_memory(run: FinishedRun, hint: str) -> Iterator[None]:
    """Raise OutOfMemoryError instead of what the libraries raise, with what to lower here: the plan is trained already."""
    from ftadvise.runner.out_of_memory import explaining_out_of_memory

    try:
        with explaining_out_of_memory(run.recipe):
            yield
    except OutOfMemoryError as error:
        error.hint = hint
        raise


def load_run_tokenizer(run: FinishedRun, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer saved with the trained weights, else the base's.

    Raises:
        InputError: there is none.
    """
    from ftadvise.runner.load_model import load_tokenizer

    tokenizer = load_tokenizer(run.trained, trust_remote_code=trust_remote_code)
    if tokenizer is not None:
        use_template(tokenizer, None)  # what was saved has the template of the training
        return tokenizer
    tokenizer = load_tokenizer(run.base, trust_remote_code=trust_remote_code) if run.base else None
    if tokenizer is not None:
        use_template(tokenizer, data_settings_of(run.report).template)
        return tokenizer
    raise InputError(f"{run.trained}: has no tokenizer (tokenizer.json)", hint="put the model's tokenizer files into that folder")


def _base_folder(run_dir: Path, report: RunReport, say: Callable[[str], None]) -> Path:
    model = report.plan.get("model") if isinstance(report.plan, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("id"), str):
        raise InputError(f"{run_dir / REPORT_NAME}: does not say which model was trained", hint=_AGAIN)
    source = _Source(model["id"], model.get("local_path"))
    try:
        return find_model_folder(cast(PlanFile, source), say=say)
    except InputError as error:
        raise InputError(f"{run_dir}: the base model is gone: {error}", hint=error.hint) from None


def _check_adapter(folder: Path) -> None:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:100]
        raise InputError(f"{folder / ADAPTER_CONFIG}: cannot be read ({reason})", hint=_AGAIN) from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise InputError(f"{folder / ADAPTER_CONFIG}: not the configuration of an adapter (no peft_type)", hint=_AGAIN)
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise InputError(f"{folder}: the adapter is missing (no {ADAPTER_WEIGHTS})", hint=_AGAIN)
    _check_safetensors(path)


def _check_model(folder: Path) -> None:
    missing = missing_files(folder)
    if missing:
        raise InputError(f"{folder}: the trained model is not complete, {missing[0]} is missing", hint=_AGAIN)
    for path in sorted(folder.glob("*.safetensors")):
        _check_safetensors(path)


def _check_safetensors(path: Path) -> None:
    """The library checks that the header fits the file's length to the byte: a truncated file is found here."""
    check_installed()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: damaged ({reason})", hint=_AGAIN) from None


def recipe_here(recipe: Recipe, device: str, *, quantized: bool = True, dtype: Dtype | None = None) -> Recipe:
    """The recipe as far as loading reads it, for this machine; flash attention gives way to sdpa where it is not installed."""
    changes: dict[str, Any] = {"sharding": "none", "offload": "none"}  # one process is enough to answer
    if not quantized:
        changes |= {"quantization": "none", "double_quantization": False, "high_precision_modules": ()}
    if dtype is not None:
        changes["compute_dtype"] = dtype
    if recipe.attention == "flash_attention_2" and (device != "cuda" or importlib.util.find_spec("flash_attn") is None):
        changes["attention"] = "sdpa"
    return dataclasses.replace(recipe, **changes)


def _load(folder: Path, recipe: Recipe, device: str, trust_remote_code: bool) -> Any:
    from ftadvise.runner.load_model import check_remote_code, load_model

    check_remote_code(folder, trusted=trust_remote_code)
    model = load_model(folder, recipe, device, trust_remote_code=trust_remote_code)
    model.requires_grad_(False)
    return model.eval()


def _register_own_tuners() -> None:
    """The bottleneck adapter is a PEFT tuner of our own."""
    from ftadvise.estimator.bottleneck_tuner import register

    register()


@contextlib.contextmanager
def _missing_keys_are_errors() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            yield
        except UserWarning as warning:
            raise ValueError(str(warning)) from None
