"""Base models that are broken, or not what they say they are: one line that names what is wrong, never a model that trains all the same."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_training import RECIPE, VOCABULARY, save_tiny_base  # noqa: E402

from ftadvise.estimator.plan_file import PlanFile  # noqa: E402
from ftadvise.estimator.recipe import Recipe  # noqa: E402
from ftadvise.profiles.errors import InputError  # noqa: E402
from ftadvise.runner.load_model import check_vocabulary, load_model, load_tokenizer  # noqa: E402
from ftadvise.runner.rehearse import synthetic_tokenizer  # noqa: E402
from ftadvise.runner.weights import find_model_folder  # noqa: E402

FP32 = Recipe(**RECIPE)
NF4 = FP32.replace(quantization="nf4", double_quantization=True)
INT8 = FP32.replace(quantization="int8")
RECIPES = {"unquantised": FP32, "nf4": NF4, "nf4 without double": NF4.replace(double_quantization=False), "int8": INT8}
Change = Callable[[Path], None]
MakePlan = Callable[..., PlanFile]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(base, tmp_path / "model")


@pytest.fixture(scope="module", params=["nf4", "int8"])
def quantized(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The same base as bitsandbytes stores it."""
    folder = tmp_path_factory.mktemp(request.param)
    load_model(base, RECIPES[request.param], "cpu").save_pretrained(folder)
    return request.param, folder


def tensors(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the stored weights."""

    def apply(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def config(**values: Any) -> Change:
    """Change config.json."""

    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return apply


def content(change: Callable[[bytes], bytes]) -> Change:
    """Change the bytes of model.safetensors."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return apply


def sharded(folder: Path, names: tuple[str, str] = ("a.safetensors", "b.safetensors")) -> dict[str, str]:
    """Divide the weights over two files; returns the index's weight_map."""
    found = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    half = len(found) // 2
    for name, part in zip(names, (found[:half], found[half:]), strict=True):
        save_file(dict(part), folder / Path(name).name, metadata={"format": "pt"})
    weight_map = {key: names[position >= half] for position, (key, _) in enumerate(found)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


UP = "model.layers.0.mlp.up_proj.weight"
HUGE = struct.pack("<Q", 96) + json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode().ljust(96)
BROKEN = {
    "the end of the file is missing": (content(lambda data: data[:-100]), "not downloaded to its end"),
    "an empty file": (content(lambda data: b""), "not downloaded to its end"),
    "a header that is none": (content(lambda data: b"\xff" * len(data)), "file is corrupt"),
    "a header that is no JSON": (content(lambda data: data[:8] + b"x" * (len(data) - 8)), "file is corrupt"),
    "a tensor of 4 TiB": (content(lambda data: HUGE), "file is corrupt"),
    "a web page": (content(lambda data: b"<!DOCTYPE html><html>not found</html>"), "file is corrupt"),
    "a tensor is missing": (tensors(lambda t: t.pop(UP)), rf"lacks {UP}, which would stay random"),
    "a layer is missing": (config(num_hidden_layers=3), r"lacks model\.layers\.2\..* and 6 more"),
    "a layer too many": (config(num_hidden_layers=1), r"leaves out model\.layers\.1\..* and 6 more of the checkpoint"),
    "another width": (config(intermediate_size=96), r"down_proj\.weight is \[32, 64\] and should be \[32, 96\]"),
    "another tensor's shape": (tensors(lambda t: t.update({"model.norm.weight": torch.ones(16)})), r"is \[16\] and should be \[32\]"),
    "whole numbers": (tensors(lambda t: t.update({UP: t[UP].to(torch.int32)})), rf"{UP} \(I32\)"),
    "not a number": (tensors(lambda t: t[UP].view(-1)[7:8].fill_(float("nan"))), rf"{UP}: not finite in fp"),
    "infinite": (tensors(lambda t: t[UP].view(-1)[7:8].fill_(float("-inf"))), rf"{UP}: not finite in fp"),
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised already .'gptq'., which no recipe trains on"),
    "awq": (config(quantization_config={"quant_method": "awq", "bits": 4}), "quantised already .'awq'."),
    "an unknown method": (config(quantization_config={"quant_method": "\x1b[31mnonsense"}), r"already .'\\x1b\[31mnonsense'."),
    "no method": (config(quantization_config={"bits": 4}), "names no quant_method"),
    "no mapping": (config(quantization_config="nf4"), "names no quant_method"),
    "nf4 that is none": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        "says nf4, but the tensors are not quantised",
    ),
    "a kind of model that does not write": (config(model_type="t5"), "cannot be loaded"),
    "a kind of model that nobody knows": (config(model_type="nonsense"), "cannot be loaded .*nonsense"),
    "no configuration": (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
}


@pytest.mark.parametrize("recipe", [FP32, NF4], ids=["unquantised", "nf4"])
@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_base_is_named_in_one_line(model: Path, change: Change, message: str, recipe: Recipe) -> None:
    change(model)
    with pytest.raises(InputError, match=message) as caught:
        load_model(model, recipe, "cpu")
    assert "\n" not in str(caught.value)
    assert str(model) in str(caught.value)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_no_quantisation_hides_a_weight_that_is_not_finite(model: Path, recipe: Recipe) -> None:
    tensors(lambda t: t[UP].view(-1)[7:8].fill_(float("nan")))(model)
    with pytest.raises(InputError, match=f"{UP}: not finite"):
        load_model(model, recipe, "cpu")


def test_weights_too_large_for_fp16_say_which_format_holds_them(model: Path) -> None:
    tensors(lambda t: t[UP].view(-1)[7:8].fill_(1e5))(model)
    load_model(model, FP32, "cpu")
    with pytest.raises(InputError, match=f"{UP}: not finite in fp16") as caught:
        load_model(model, FP32.replace(compute_dtype="fp16"), "cpu")
    assert "bf16" in str(caught.value.hint)


def test_what_the_model_does_not_know_is_no_fault(model: Path) -> None:
    tensors(lambda t: t.update({"v_head.weight": torch.ones(4), "lm_head.weight": t["model.embed_tokens.weight"].clone()}))(model)
    assert load_model(model, FP32, "cpu").num_parameters() > 0


def test_a_checkpoint_in_parts_is_read_and_checked_as_a_whole(model: Path, make_plan: MakePlan) -> None:
    weight_map = sharded(model)
    assert find_model_folder(make_plan(model)) == model
    load_model(model, FP32, "cpu")
    lost = min(key for key, file in weight_map.items() if file == "b.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map | {lost: "a.safetensors"}}))
    with pytest.raises(InputError, match=f"{lost}: not in the file that the index names"):
        load_model(model, FP32, "cpu")
    (model / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"looked for .*b\.safetensors"):
        find_model_folder(make_plan(model))


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "part/a.safetensors", "a.bin", "..", "a\n.safetensors", ""])
def test_an_index_names_files_of_its_own_folder_only(model: Path, make_plan: MakePlan, name: str) -> None:
    sharded(model, (name or "a.safetensors", "b.safetensors")) if name.endswith("/a.safetensors") else sharded(model)
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(InputError, match="is not the name of a safetensors file in this folder") as caught:
        find_model_folder(make_plan(model))
    assert "\n" not in str(caught.value)


def test_what_bitsandbytes_stored_is_trained_by_the_same_recipe_only(quantized: tuple[str, Path]) -> None:
    kind, folder = quantized
    loaded = load_model(folder, RECIPES[kind].replace(compute_dtype="bf16"), "cpu")
    if kind == "nf4":  # the recipe decides what it computes in, not what was stored
        assert loaded.model.layers[0].mlp.up_proj.compute_dtype == torch.bfloat16
    for other, recipe in RECIPES.items():
        if other != kind:
            with pytest.raises(InputError, match=f"quantised already .{kind}.*the recipe wants {recipe.quantization}") as caught:
                load_model(folder, recipe, "cpu")
            assert f"quantization: {kind}" in str(caught.value.hint)


# Pickles


class Harmful:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture
def pickled(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base as pytorch_model.bin, its head a view of the embeddings as transformers stores tied weights; an own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save({**found, "lm_head.weight": found["model.embed_tokens.weight"]}, model / "pytorch_model.bin")
    return model


def test_a_pickle_is_refused_unless_asked_for_and_then_converted_once(pickled: Path, make_plan: MakePlan, base: Path) -> None:
    plan, said = make_plan(pickled), list[str]()
    with pytest.raises(InputError, match="pickle only") as caught:
        find_model_folder(plan)
    assert "--allow-pickle" in str(caught.value.hint)
    folder = find_model_folder(plan, allow_pickle=True, say=said.append)
    assert find_model_folder(plan, say=said.append) == folder  # what was asked for once is safetensors now
    assert said == [f"converting {pickled.name}; once"]
    assert not list(folder.glob("*.bin"))
    loaded, wanted = (load_model(each, FP32, "cpu").state_dict() for each in (folder, base))
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)


def test_a_pickle_that_would_run_code_is_refused_without_running_it(pickled: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    mark = tmp_path / "was here"
    torch.save({"model.norm.weight": torch.ones(2), "x": Harmful(mark)}, pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="holds more than tensors"):
        find_model_folder(make_plan(pickled), allow_pickle=True)
    assert not mark.exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("written", [b"", b"garbage", pickle.dumps([1, 2])], ids=["empty", "garbage", "a list"])
def test_a_pickle_that_is_none_is_refused_in_one_line(pickled: Path, make_plan: MakePlan, written: bytes) -> None:
    (pickled / "pytorch_model.bin").write_bytes(written)
    with pytest.raises(InputError, match="refused") as caught:
        find_model_folder(make_plan(pickled), allow_pickle=True)
    assert "\n" not in str(caught.value)


# Tokenizers


def test_tokens_that_the_model_lacks_are_refused_where_the_data_uses_them() -> None:
    tokenizer = synthetic_tokenizer(VOCABULARY)
    known = len(tokenizer)
    rows = [{"input_ids": [0, 1]}, {"input_ids": [0, known + 1]}]
    assert check_vocabulary(tokenizer, rows[:1], known, "org/model") is None
    tokenizer.add_tokens(["<new>", "<newer>"])
    with pytest.raises(InputError, match=rf"data row 2 uses '<newer>' \(id {known + 1}\)") as caught:
        check_vocabulary(tokenizer, rows, known, "org/model")
    assert "resize_token_embeddings" in str(caught.value.hint)
    assert "uses none of the others" in str(check_vocabulary(tokenizer, rows[:1], known, "org/model"))


def test_padding_never_has_an_id_that_the_model_lacks() -> None:
    tokenizer = synthetic_tokenizer(VOCABULARY)
    known = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == known
    check_vocabulary(tokenizer, [{"input_ids": [0]}], known, "org/model")
    assert tokenizer.pad_token_id < known


def test_a_tokenizer_without_end_and_padding_can_still_pad(tmp_path: Path) -> None:
    tokenizer = synthetic_tokenizer(VOCABULARY)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if not key.endswith("_token")}
    path.write_text(json.dumps(kept))
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    loaded = load_tokenizer(tmp_path)
    assert loaded is not None
    assert (loaded.eos_token, loaded.pad_token_id) == (None, 0)


def test_a_folder_without_tokenizer_has_none(model: Path) -> None:
    assert load_tokenizer(model) is None


@pytest.mark.parametrize("written", ["", "{", "[]", '{"model": {"type": "nonsense"}}'])
def test_a_broken_tokenizer_is_an_input_error(tmp_path: Path, written: str) -> None:
    (tmp_path / "tokenizer.json").write_text(written)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(InputError, match="tokenizer cannot be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_s_own_code_does_not_run_unasked(tmp_path: Path) -> None:
    mark = tmp_path / "was here"
    (tmp_path / "own.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    about = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)
    assert not mark.exists()
    assert "--trust-remote-code" in str(caught.value.hint)
