"""`deploy_run`: a finished run made ready for a server, as far as that is possible here, with the memory that serving will take."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftadvise.estimator.device_memory import available_bytes
from ftadvise.estimator.inference import Serving, inference_memory
from ftadvise.estimator.tenants import Adapter, tenancies
from ftadvise.profiles.cgroup import read_cgroup_limits
from ftadvise.profiles.cpu import probe_ram
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.hardware import Gpu
from ftadvise.profiles.local_model import spec_from_path
from ftadvise.profiles.units import gib
from ftadvise.runner.deploy import gguf, gptq, ollama, onnx, vllm
from ftadvise.runner.deploy.deployment import Deployment, Request, Work, check_path
from ftadvise.runner.deploy.merged import check_mergeable, scratch_bytes
from ftadvise.runner.durable import NEW, OLD, remove_folder
from ftadvise.runner.finished_run import FinishedRun, finished_run
from ftadvise.runner.run_folder import write_folder_atomically

TARGETS: dict[str, Callable[[Request], Work]] = {
    "gguf": gguf.plan,
    "ollama": ollama.plan,
    "vllm": vllm.plan,
    "gptq": gptq.plan,
    "onnx": onnx.plan,
}
_CONTEXT = 4096
_SHOWN = ("bf16", "int8", "nf4", "gptq", "gguf:q8_0", "gguf:q4_k_m", "onnx-fp16", "onnx-int8")
"""Forms whose memory is shown beside the one that is made."""


def check_target(name: str) -> str:
    """The target's name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}", hint=did_you_mean(name, TARGETS) or f"--to {' | '.join(TARGETS)}")
    return name


def deploy_run(
    run_dir: Path,
    target: str,
    *,
    out_dir: Path | None = None,
    quantization: str | None = None,
    tenants: int = 1,
    serving: Serving | None = None,
    concurrent: int = 1,
    gpu: Gpu | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Deployment:
    """Make the run in `run_dir` ready for `target`; what cannot be done here comes back as lines to type.

    Args:
        out_dir: where files go, by default deploy/TARGET in the run's folder. It appears completely or not at all.
        quantization: of the weights, in the target's own words.
        tenants: how many adapters share the base.
        serving: how long and how many sequences are; by default `concurrent` of 4096 tokens, or of what the model reads.
        gpu: the card that will serve, if it is known.
        force: replace what is in the folder.

    Raises:
        InputError: unknown target or quantisation, no finished run, the adapter cannot be served so, the folder is there, or disk or RAM
            are too small; nothing was written.
    """
    check_target(target)
    run_dir = run_dir.absolute()  # lines to type hold wherever they are typed
    folder = (out_dir or run_dir / "deploy" / target).absolute()
    for path in (run_dir, folder):
        check_path(path)
    run = finished_run(run_dir, say=say)
    spec = spec_from_path(run.base or run.trained)
    serving = serving or Serving(min(_CONTEXT, spec.max_position or _CONTEXT), concurrent)
    request = Request(run, spec, _adapter(run), folder, quantization, serving, tenants, gpu, say)
    check_path(request.base.absolute())
    if target != "vllm":
        check_mergeable(run)
    work = TARGETS[target](request)
    files: dict[str, int] = {}
    if work.write is not None:
        _check_folder(folder, force)
        _check_ram(work.ram_bytes)
        _check_disk(folder, work.needs_bytes + (scratch_bytes(run) if work.merges else 0))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                write_folder_atomically(folder, work.write)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())[:100]
            raise InputError(f"{folder}: cannot be written ({reason})", hint="choose another folder with -o") from None
        files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    free = None if gpu is None else available_bytes(gpu)
    forms = dict.fromkeys((work.form, *_SHOWN))
    memory = tuple(inference_memory(spec, form, serving, gpu_bytes=gpu.memory_bytes if gpu else None) for form in forms)
    ways = () if request.adapter is None else tenancies(spec, request.adapter, tenants, serving, available_bytes=free)
    return Deployment(
        target=target,
        folder=folder if files else None,
        files=files,
        why=work.why,
        commands=tuple(dict.fromkeys(work.commands)),
        notes=work.notes,
        form=work.form,
        serving=serving,
        memory=memory,
        tenants=ways,
        available_bytes=free,
        gpu=gpu.name if gpu else None,
    )


def _adapter(run: FinishedRun) -> Adapter | None:
    """What a tenant's adapter takes: the elements of the saved one."""
    if run.adapter is None:
        return None
    from safetensors import safe_open

    with safe_open(run.adapter / "adapter_model.safetensors", framework="np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - not a mapping
    elements = 0
    for shape in shapes:
        count = 1
        for length in shape:
            count *= int(length)
        elements += count
    return Adapter(elements, run.recipe.rank, is_lora=run.recipe.method == "lora")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else writes this folder meanwhile; what killed ones left of it is cleared away.

    Raises:
        InputError: another process is at it.
    """
    from filelock import FileLock, Timeout

    path = folder.parent / f".ftadvise-{folder.name}.lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder}: another ftadvise deploy is writing there", hint="wait for it, or choose another folder with -o"
        ) from None
    try:
        for left in folder.parent.iterdir():
            if left.name.startswith(f"{NEW}{folder.name}-"):
                remove_folder(left)
            elif left.name == f"{OLD}{folder.name}" and not folder.exists():
                left.rename(folder)
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _check_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: the output must be a folder, this is a file", hint="choose another folder with -o")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise InputError(f"{folder}: is already there", hint="replace it with --force, or choose another folder with -o")


def _check_ram(needed: int) -> None:
    free = probe_ram(read_cgroup_limits()).available_bytes
    if needed > free:
        raise InputError(
            f"the export needs {gib(needed)} of RAM, {gib(free)} are free", hint="close other programs, or use a larger machine"
        )


def _check_disk(folder: Path, needed: int) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(f"{folder}: not enough disk: {gib(needed)} are needed, {gib(free)} are free", hint="choose another disk with -o")
