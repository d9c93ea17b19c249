"""What users type for a GPU, and what the driver calls it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.gpu_cards import all_gpu_cards
from ftadvise.profiles.resolve_gpu import MAX_GPUS, list_gpus, match_nvml_name, resolve_gpus

GIB = 1 << 30
CARDS = all_gpu_cards()
LABELS = [(label, card) for card in CARDS for label in (card.name, *card.aliases, *card.nvml_names)]


def _error(text: str) -> InputError | None:
    try:
        resolve_gpus(text)
    except InputError as error:
        return error
    return None


def _outcome(text: str) -> str:
    """The card resolved to, or the error's words without the text itself."""
    error = _error(text)
    if error is not None:
        return re.sub(r"^'.*?'", "", str(error))
    gpus = resolve_gpus(text)
    return f"{len(gpus)} {gpus[0].name} {gpus[0].memory_bytes}"


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("RTX 4090", 1, "RTX 4090"),
        ("4090", 1, "RTX 4090"),
        ("rtx-4090", 1, "RTX 4090"),
        ("rtx4090", 1, "RTX 4090"),
        ("ＲＴＸ　４０９０", 1, "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", 1, "RTX 4090"),
        ("laptop 4090", 1, "RTX 4090 Laptop"),
        ("4090D", 1, "RTX 4090 D"),
        ("RTX 3060 12GB", 1, "RTX 3060 12GB"),
        ("3060 12g", 1, "RTX 3060 12GB"),
        ("2080ti", 1, "RTX 2080 Ti"),
        ("A100-80GB", 1, "A100 SXM4 80GB"),
        ("A100 80", 1, "A100 SXM4 80GB"),
        ("A100-40GB", 1, "A100 PCIe 40GB"),
        ("a100_80gb_pcie", 1, "A100 PCIe 80GB"),
        ("2x A100-80GB", 2, "A100 SXM4 80GB"),
        ("2 x A100 80GB", 2, "A100 SXM4 80GB"),
        ("A100-80GB x2", 2, "A100 SXM4 80GB"),
        ("A100-80GBx2", 2, "A100 SXM4 80GB"),
        ("8×H100", 8, "H100 SXM5 80GB"),
        ("8*h100", 8, "H100 SXM5 80GB"),
        ("4x4090", 4, "RTX 4090"),
        ("4090x4", 4, "RTX 4090"),
        ("H100 94GB", 1, "H100 NVL 94GB"),
        ("RX 7900 XTX", 1, "RX 7900 XTX"),
        ("AMD Instinct MI300X", 1, "MI300X"),
        ("MI250", 2, "MI250"),  # one board, two devices
        ("A10G", 1, "A10G"),
        ("tesla t4", 1, "T4"),
        ("DGX Spark", 1, "GB10 (DGX Spark)"),
        ("1024x T4", 1024, "T4"),
    ],
)
def test_names_with_and_without_a_count(text: str, count: int, name: str) -> None:
    gpus = resolve_gpus(text)
    assert [gpu.name for gpu in gpus] == [name] * count
    assert gpus[0].free_bytes is None


@pytest.mark.parametrize("text", ["cpu", "CPU", " none "])
def test_no_gpu_can_be_named(text: str) -> None:
    assert resolve_gpus(text) == ()


def test_every_label_leads_to_its_card_or_to_an_ambiguity_that_lists_it() -> None:
    for label, card in LABELS:
        error = _error(label)
        if error is None:
            assert resolve_gpus(label)[0].name == card.name
        else:
            assert card.name in str(error)
            # A card's own name is never ambiguous; it can lack a memory size.
            assert label != card.name or card.memory_bytes is None


@given(st.sampled_from(LABELS), st.sampled_from([" ", "-", "_", "  "]), st.sampled_from([str.upper, str.lower, str.swapcase, str.title]))
def test_case_and_punctuation_do_not_matter(labelled, separator: str, change) -> None:  # type: ignore[no-untyped-def]
    label = labelled[0]
    assert _outcome(change(re.sub(r"[ -]", separator, label))) == _outcome(label)


@given(
    st.sampled_from(CARDS),
    st.integers(1, MAX_GPUS),
    st.sampled_from(["{n}x {name}", "{n} x {name}", "{n}×{name}", "{name} x{n}", "{name} × {n}"]),
)
def test_every_name_takes_a_count_on_either_side(card, count: int, form: str) -> None:  # type: ignore[no-untyped-def]
    if card.memory_bytes is not None:
        gpus = resolve_gpus(form.format(n=count, name=card.name))
        assert len(gpus) == count * card.devices_per_board
        assert {gpu.name for gpu in gpus} == {card.name}


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("A100", ["A100 PCIe 40GB", "A100 SXM4 40GB", "A100 PCIe 80GB", "A100 SXM4 80GB"]),
        ("A100 SXM", ["A100 SXM4 40GB", "A100 SXM4 80GB"]),
        ("RTX 3060", ["RTX 3060 8GB", "RTX 3060 12GB"]),
        ("NVIDIA GeForce RTX 3060", ["RTX 3060 8GB", "RTX 3060 12GB"]),
        ("RTX 6000", ["Quadro RTX 6000 (24 GB)", "RTX 6000 Ada (48 GB)", "RTX A6000 (48 GB)"]),
        ("GH200", ["GH200 96GB", "GH200 141GB"]),
    ],
)
def test_an_ambiguous_name_lists_its_boards(text: str, listed: list[str]) -> None:
    with pytest.raises(InputError, match="ambiguous") as caught:
        resolve_gpus(text)
    assert all(name in str(caught.value) for name in listed)
    assert (caught.value.hint or "").startswith("name one of them")


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("RTX 4091", "no GPU is called 'RTX 4091'", "RTX 4090"),
        ("H1000", "no GPU is called", "H100"),
        ("zzz", "no GPU is called 'zzz'", "ftadvise gpus"),
        ("RTX 4090 48GB", "no such board has 48 GB", "RTX 4090 (24 GB)"),
        ("RTX 4070 Ti 16GB", "no such board has 16 GB", "RTX 4070 Ti SUPER (16 GB)"),
        ("M3 Max", "several memory sizes", "M3 Max"),
        ("", "empty", "RTX 4090"),
        ("  ", "empty", "RTX 4090"),
        ("R" * 1000, "too long", "RTX 4090"),
    ],
)
def test_a_miss_says_what_would_do(text: str, error: str, hint: str) -> None:
    with pytest.raises(InputError, match=re.escape(error)) as caught:
        resolve_gpus(text)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["0x T4", "1025x T4", "T4 x0", "9" * 100 + "x T4", "T4 x 1000000"])
def test_a_count_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="between 1 and 1024"):
        resolve_gpus(text)


def test_unified_memory_comes_in_the_size_that_is_named() -> None:
    assert resolve_gpus("Apple M2 16GB")[0].memory_bytes == 16 * GIB
    assert resolve_gpus("M2")[0].memory_bytes == 24 * GIB
    assert resolve_gpus("M3 Max 64GB")[0].memory_bytes == 64 * GIB
    with pytest.raises(InputError, match="512 GB"):
        resolve_gpus("M2 512GB")


@given(st.one_of(st.text(max_size=60), st.text("RTXAHMI 0123489xgGB-×٤\n\x1b", max_size=14)))
def test_any_text_gives_gpus_or_a_one_line_error(text: str) -> None:
    error = _error(text)
    if error is None:
        assert len(resolve_gpus(text)) <= 2 * MAX_GPUS
    else:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    ("name", "memory_mib", "card"),
    [
        ("NVIDIA GeForce RTX 3060", 12288, "RTX 3060 12GB"),
        ("NVIDIA GeForce RTX 3060", 8188, "RTX 3060 8GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 4090", 49140, "RTX 4090"),  # a board with its memory doubled: the rates hold
        ("A100-SXM4-40GB", 40960, "A100 SXM4 40GB"),  # drivers before 470 left the vendor out
        ("NVIDIA GH200 480GB", 97871, "GH200 96GB"),  # 480 GB is the CPU's
        ("NVIDIA H200", 143771, "H200 SXM 141GB"),
        ("NVIDIA H100 80GB HBM2e", 81559, None),
        ("NVIDIA A10-24Q", 24576, None),  # a vGPU
        ("", 0, None),
    ],
)
def test_the_drivers_string_and_the_memory_find_the_profile(name: str, memory_mib: int, card: str | None) -> None:
    gpu = match_nvml_name(name, memory_mib << 20)
    assert (gpu and gpu.name) == card


def test_every_card_is_found_by_its_own_nvml_strings() -> None:
    for card in CARDS:
        for string in card.nvml_names:
            gpu = match_nvml_name(string, card.memory_bytes or 0)
            assert gpu is not None
            assert gpu.name == card.name


def test_listing_filters_by_words_and_size() -> None:
    assert list_gpus() == CARDS
    assert [card.name for card in list_gpus("a100 80gb")] == ["A100 PCIe 80GB", "A100 SXM4 80GB"]
    assert {card.form for card in list_gpus("laptop")} == {"laptop"}
    assert list_gpus("no such thing") == ()
