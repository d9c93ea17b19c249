"""Runs in a target's environment: hands exported files to the target's own parser. `python parse.py TARGET FOLDER`.

FOLDER holds one folder of files per plan. Prints one JSON object: for each plan null (accepted), or what the parser said.
ftadvise is not needed here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from more_parsers import MORE_PARSERS


def main() -> None:
    """Parse everything; what the libraries print goes nowhere."""
    target, folder = sys.argv[1], Path(sys.argv[2])
    parse = PARSERS[target]
    answers: dict[str, str | None] = {}
    noise = io.StringIO()
    with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
        _as_on_a_gpu()
        for plan in sorted(folder.iterdir()):
            os.chdir(plan)
            try:
                parse()
                answers[plan.name] = None
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a parser raises is its answer
                answers[plan.name] = " ".join(f"{type(error).__name__}: {error} {noise.getvalue()[-300:]}".split())[:600]
            noise.seek(0)
            noise.truncate()
    print(json.dumps(answers))


def _as_on_a_gpu() -> None:
    """transformers refuses bf16 where it sees no GPU that has it; the plans are for GPUs that do."""
    import transformers.training_args as training_args

    for name in ("is_torch_bf16_gpu_available", "is_torch_bf16_available_on_device"):
        if hasattr(training_args, name):
            setattr(training_args, name, lambda *_: True)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}


def _trl() -> None:
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser
    from trl.trainer.utils import get_peft_config, get_quantization_config

    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    *parsed, unknown = parser.parse_args_and_config(["--config", "trl_sft.yaml"], return_remaining_strings=True)
    _script, training, model, mixture = parsed
    wanted = ["--accelerate_config", "accelerate.yaml"] if Path("accelerate.yaml").is_file() else []
    _expect(unknown == wanted, f"keys that TRL does not know: {unknown}")
    _expect(isinstance(training.learning_rate, float) and len(mixture.datasets) == 1, "learning rate or data lost")
    peft = get_peft_config(model)
    _expect((peft is not None) == model.use_peft, "no adapter")
    get_quantization_config(model)
    if wanted:
        _accelerate()


def _accelerate() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    load_config_from_file("accelerate.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", "accelerate.yaml", "train.py"])
    arguments, _defaults, _ = _validate_launch_command(arguments)
    document = Path("accelerate.yaml").read_text(encoding="utf-8")
    if "fsdp_config" in document:
        _expect(arguments.use_fsdp and int(arguments.fsdp_version) == 2, "FSDP2 is not switched on")
        _fsdp_plugin(arguments)
    if "deepspeed_config" in document:
        _expect(arguments.use_deepspeed and arguments.deepspeed_config_file == "deepspeed.json", "DeepSpeed is not switched on")
        json.loads(Path("deepspeed.json").read_text(encoding="utf-8"))


def _fsdp_plugin(arguments: Any) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    offload = str(arguments.fsdp_offload_params).lower() == "true"
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=str(arguments.fsdp_reshard_after_forward).lower() == "true",
        auto_wrap_policy=arguments.fsdp_auto_wrap_policy.lower(),
        cpu_offload=offload,
        state_dict_type=arguments.fsdp_state_dict_type,
    )
    _expect((type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy") == offload, "offload lost")


def _deepspeed() -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    document = json.loads(Path("deepspeed.json").read_text(encoding="utf-8"))
    filled = _fill(document)
    config = DeepSpeedConfig(filled)
    _expect(config.zero_optimization_stage == document["zero_optimization"]["stage"], "another stage")
    _expect(config.gradient_accumulation_steps == document["gradient_accumulation_steps"], "another accumulation")
    unknown = set(document) - {
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "bf16",
        "fp16",
        "zero_allow_untested_optimizer",
        "zero_optimization",
    }
    _expect(not unknown, f"keys nobody checked: {sorted(unknown)}")


def _fill(document: dict[str, Any]) -> dict[str, Any]:
    """ "auto" as transformers' integrations/deepspeed.py fills it in for a hidden size of 4096."""
    hidden = 4096
    auto = {
        "reduce_bucket_size": hidden * hidden,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    zero = {key: auto[key] if value == "auto" else value for key, value in document["zero_optimization"].items()}
    return {**document, "zero_optimization": zero}


def _llama_factory() -> None:
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))  # imported, and used for audio data alone
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.extras import misc
    from llamafactory.hparams import parser

    parser._check_extra_dependencies = lambda *_: None  # liger-kernel and deepspeed are the user's to install
    misc.check_dependencies = lambda: None
    sys.argv = ["train", "llamafactory_sft.yaml"]
    values = parser.read_args()
    sharded = values.pop("deepspeed", None)  # starts a process group, which asks for GPUs: checked as a file of its own
    if sharded:
        _deepspeed()
    model, data, training, finetuning, _ = parser.get_train_args(values)
    _expect(model.model_name_or_path == values["model_name_or_path"], "another model")
    _expect(finetuning.finetuning_type == values["finetuning_type"] and training.do_train, "another method")
    (dataset,) = get_dataset_list(data.dataset, data.dataset_dir)
    _expect(dataset.load_from == "file" and Path(dataset.dataset_name).suffix in (".jsonl", ".json", ".csv"), "no data")
    if Path("accelerate.yaml").is_file():
        _accelerate()


def _axolotl() -> None:
    import yaml
    from axolotl.utils.schemas.config import AxolotlConfigWCapabilities

    values = yaml.safe_load(Path("axolotl.yaml").read_text(encoding="utf-8"))
    schema: Any = AxolotlConfigWCapabilities
    if "axolotl.integrations.liger.LigerPlugin" in values.get("plugins", ()):
        from axolotl.integrations.liger.args import LigerArgs

        schema = type("WithPlugins", (LigerArgs, schema), {})  # as utils/schemas/config.py merge_input_args does
    unknown = set(values) - set(schema.model_fields)
    _expect(not unknown, f"keys that Axolotl does not know: {sorted(unknown)}")
    gpus = 2 if "fsdp_config" in values or "deepspeed" in values else 1
    capabilities = {"bf16": True, "tf32": True, "n_gpu": gpus, "n_node": 1, "compute_capability": "sm_89"}
    config = schema(**values, capabilities=capabilities, env_capabilities={"torch_version": "2.9.0"})
    _expect(float(config.learning_rate) == float(values["learning_rate"]), "another learning rate")
    if "deepspeed" in values:
        json.loads(Path(values["deepspeed"]).read_text(encoding="utf-8"))


def _expect(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)


PARSERS: dict[str, Callable[[], None]] = {
    "accelerate": _accelerate,
    "axolotl": _axolotl,
    "deepspeed": _deepspeed,
    "fsdp": _accelerate,
    "llama-factory": _llama_factory,
    "trl": _trl,
    **MORE_PARSERS,
}

if __name__ == "__main__":
    main()
