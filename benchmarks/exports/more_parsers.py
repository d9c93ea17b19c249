"""What parse.py asks of the scripts, jobs and configurations that are not transformers' arguments. Runs in the target's environment."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

_TINY = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_TINY |= {"num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 256, "torch_dtype": "bfloat16"}
_SBATCH = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time", "signal", "output"}


def python() -> None:
    """The script compiles, and every library takes the arguments that it is given."""
    import peft
    import transformers
    import trl

    tree = _compiled("train.py")
    for name, given in _calls(tree):
        for library in (trl, peft, transformers):
            if name in ("AutoModelForCausalLM.from_pretrained", "get_peft_model"):
                continue
            if hasattr(library, name):
                _takes(name, inspect.signature(getattr(library, name)).parameters, given)
    _configured(tree)


def _configured(tree: ast.Module) -> None:
    """SFTConfig itself accepts the values."""
    from trl import SFTConfig

    made = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "SFTConfig")
    names = {"OUTPUT": Path("out"), "SEQ_LEN": 128, "SEED": 1, "str": str}
    values = {each.arg: eval(ast.unparse(each.value), {"__builtins__": {}}, names) for each in made.keywords}  # noqa: S307 - our own script
    SFTConfig(**{**values, "use_cpu": False})


def unsloth() -> None:
    """The script compiles; Unsloth (which is not imported: it wants a GPU) and TRL know the arguments."""
    from trl import SFTConfig

    tree = _compiled("train_unsloth.py")
    source = Path(importlib.util.find_spec("unsloth").submodule_search_locations[0]) / "models"  # type: ignore[union-attr, index]
    known = {
        "FastLanguageModel.from_pretrained": _parameters(source / "loader.py", "FastLanguageModel", "from_pretrained")
        | {"quantization_config"},
        "FastLanguageModel.get_peft_model": _parameters(source / "llama.py", "FastLlamaModel", "get_peft_model") | {"use_dora"},
        "SFTConfig": {each.name for each in dataclasses.fields(SFTConfig)},
    }
    for name, given in _calls(tree):
        if name in known:
            _takes(name, known[name], given)


def _parameters(file: Path, owner: str, method: str) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner)
    found = next(each for node in classes for each in node.body if isinstance(each, ast.FunctionDef) and each.name == method)
    return {each.arg for each in (*found.args.args, *found.args.kwonlyargs)}


def _compiled(name: str) -> ast.Module:
    text = Path(name).read_text(encoding="utf-8")
    compile(text, name, "exec")
    return ast.parse(text)


def _calls(tree: ast.Module) -> Iterable[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), [each.arg for each in node.keywords if each.arg]


def _takes(name: str, known: Iterable[str], given: list[str]) -> None:
    unknown = [each for each in given if each not in known]
    if unknown and "kwargs" not in known:
        raise ValueError(f"{name} does not take {', '.join(unknown)}")


def torchtune() -> None:
    """`tune validate`, and every component but the data is made: the model on the meta device, optimizer, schedule, loss."""
    import torch
    from omegaconf import OmegaConf
    from torchtune import config

    loaded = OmegaConf.load("torchtune.yaml")
    config.validate(loaded)
    OmegaConf.to_container(loaded, resolve=True)
    with torch.device("meta"):
        config.instantiate(loaded.model)
    optimizer = config.instantiate(loaded.optimizer, [torch.nn.Parameter(torch.zeros(2))])
    schedule = config.instantiate(loaded.lr_scheduler, optimizer, num_training_steps=100, last_epoch=-1)
    schedule.step()
    config.instantiate(loaded.loss)


def ms_swift() -> None:
    """`swift sft`'s own arguments, with a tiny model in place of the plan's; the command line says the same as the file."""
    from swift.arguments import SftArguments
    from swift.cli.main import parse_yaml_args
    from swift.utils import parse_args

    arguments = ["swift_sft.yaml"]
    parse_yaml_args(arguments)
    lines = Path("swift_sft.sh").read_text(encoding="utf-8").split("\n", 2)[2]
    words = shlex.split(lines.replace("\\\n", " "))
    if words[words.index("sft") + 1 :] != arguments:
        raise ValueError("the command line differs from the file")
    Path("tiny").mkdir(exist_ok=True)
    Path("tiny/config.json").write_text(json.dumps(_TINY), encoding="utf-8")
    arguments[arguments.index("--model") + 1] = str(Path("tiny").absolute())
    if "--deepspeed" in arguments:  # starts a process group, which asks for GPUs; the file is checked with the target deepspeed
        at = arguments.index("--deepspeed")
        del arguments[at : at + 2]
    parsed, rest = parse_args(SftArguments, [*arguments, "--model_type", "qwen2", "--template", "qwen2_5"])
    if rest:
        raise ValueError(f"unknown arguments {rest}")
    parsed.get_quantization_config()


def skypilot() -> None:
    """SkyPilot's own reading of the task, and a shell's of its commands."""
    os.environ["SKYPILOT_DISABLE_USAGE_COLLECTION"] = "1"
    import sky

    task = sky.Task.from_yaml("task.yaml")
    for script in (task.setup, task.run):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, capture_output=True)
    if not task.num_nodes:
        raise ValueError("no nodes")


def slurm() -> None:
    """A shell reads the script, and its options are those of sbatch(1) that we know. Slurm itself is not asked."""
    subprocess.run(["bash", "-n", "job.sbatch"], check=True, capture_output=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)=\S+$", Path("job.sbatch").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = set(options) - _SBATCH
    if unknown or len(options) < 6:
        raise ValueError(f"options {sorted(unknown)} of {len(options)}")


MORE_PARSERS: dict[str, Callable[[], None]] = {
    "python": python,
    "unsloth": unsloth,
    "torchtune": torchtune,
    "ms-swift": ms_swift,
    "skypilot": skypilot,
    "slurm": slurm,
}

if __name__ == "__main__":
    MORE_PARSERS[sys.argv[1]]()
