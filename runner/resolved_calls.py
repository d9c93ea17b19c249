"""What `run --dry-run` shows: every library call of the run with its arguments, from the functions that the run itself uses.

No weights are loaded and nothing is trained. Imports the libraries late, for the names that this version of them has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.estimator.peft_settings import adapter_arguments
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Recipe

DRY_RUN_SCHEMA = "ftadvise.dry-run/1"


@dataclass(frozen=True, slots=True)
class ResolvedCall:
    """One call, named as in Python. `arguments` are JSON-ready; a dtype is its name ("torch.bfloat16"), "<LoraConfig>" what an earlier
    call made; a positional argument's name is empty.
    """

    name: str
    arguments: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"call": self.name, "arguments": self.arguments}


def resolved_calls(
    plan_file: PlanFile, recipe: Recipe, device: str, *, out_dir: Path, trust_remote_code: bool = False, track: Sequence[str] = ()
) -> list[ResolvedCall]:
    """The calls in the order of the run.

    Args:
        recipe: as it will run, with the number of steps that the command line may have set.
        device: "cpu" or "cuda".
        out_dir: the run folder, which need not exist.
        track: names of trackers.

    Raises:
        InputError: the method cannot be combined with the rest of the recipe.
    """
    from ftadvise.runner.checkpoints import checkpoints_of
    from ftadvise.runner.load_model import model_arguments, torch_dtype
    from ftadvise.runner.sharding_arguments import sharding_arguments
    from ftadvise.runner.trackers import tracking_arguments
    from ftadvise.runner.trainer import sft_arguments

    base = plan_file.local_path or plan_file.model_id
    model = model_arguments(recipe, device, head=_head_name(plan_file, recipe, trust_remote_code), trust_remote_code=trust_remote_code)
    quantization = model.pop("quantization_config")
    adapter = adapter_arguments(recipe)
    data = plan_file.data
    training = sft_arguments(
        recipe,
        device,
        checkpoints_of(out_dir),
        save=True,
        evaluate=bool(data.eval_share or data.eval_path),
        extra=sharding_arguments(recipe, device) | tracking_arguments(track, out_dir),
    )
    calls = [("transformers.AutoTokenizer.from_pretrained", {"": base, "trust_remote_code": trust_remote_code, "local_files_only": True})]
    if quantization is not None:
        calls.append(("transformers.BitsAndBytesConfig", quantization))
    nested = {"quantization_config": "<BitsAndBytesConfig>"} if quantization is not None else {}
    calls.append(("transformers.AutoModelForCausalLM.from_pretrained", {"": base, **model, **nested}))
    if adapter is not None:
        name, settings = adapter
        module = "ftadvise" if name == "BottleneckConfig" else "peft"
        calls += [(f"{module}.{name}", settings), ("peft.get_peft_model", {"model": "<model>", "peft_config": f"<{name}>"})]
    calls.append(("trl.SFTConfig", training))
    rows = {"train_dataset": "<rows>", "processing_class": "<tokenizer>"}
    calls.append(("trl.SFTTrainer", {"model": "<model>", "args": "<SFTConfig>", **rows}))
    if adapter is not None:
        calls.append(("parameters.to", {"parameters": "<trained>", "dtype": torch_dtype(recipe.adapter_dtype)}))
    return [ResolvedCall(name, {key: _plain(value) for key, value in arguments.items()}) for name, arguments in calls]


def _head_name(plan_file: PlanFile, recipe: Recipe, trust_remote_code: bool) -> str:
    """The output head's name, which only matters beside other modules that stay as they are; read from config.json where that is here."""
    from ftadvise.runner.load_model import head_name
    from ftadvise.runner.weights import find_config_folder

    folder = find_config_folder(plan_file) if recipe.high_precision_modules and recipe.quantization != "none" else None
    return head_name(folder, trust_remote_code) if folder is not None else "lm_head"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(getattr(value, "value", value))  # an enumeration's value, a dtype's or a path's name
