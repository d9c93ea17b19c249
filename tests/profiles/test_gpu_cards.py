"""The 171 GPU cards: every entry against the schema, and the conversion to a Gpu."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.gpu_cards import GPU_FOLDER, GpuCard, all_gpu_cards, card_to_gpu
from ftadvise.profiles.gpu_schema import validate_card
from ftadvise.profiles.yaml_store import load_yaml_folder

GIB = 1 << 30
FILES = load_yaml_folder(GPU_FOLDER)
LEGEND = tuple(FILES["_sources.yaml"]["sources"])
ENTRIES = [(f"{name} entry {number}", entry) for name in FILES if name[0] != "_" for number, entry in enumerate(FILES[name])]
GOOD: dict[str, Any] = {
    "name": "RTX 9999",
    "vendor": "NVIDIA",
    "form": "consumer",
    "arch": "Rubin",
    "compute_capability": "13.0",
    "memory_gib": 48,
    "bf16_tflops": 400,
    "tensor_basis": "published: nanochat",
    "sources": ["nanochat"],
}


def _card(name: str) -> GpuCard:
    return next(card for card in all_gpu_cards() if card.name == name)


def test_every_entry_keeps_to_the_schema_and_is_the_card_the_program_uses() -> None:
    validated = tuple(validate_card(entry, where=where, sources=LEGEND) for where, entry in ENTRIES)
    assert len(validated) == 171
    assert validated == all_gpu_cards()
    assert len({card.name.casefold() for card in validated}) == 171


def test_the_legend_explains_keys_that_exist() -> None:
    conventions = FILES["_sources.yaml"]["conventions"]
    assert {"unconfirmed", "tensor_basis", "price_usd_per_gpu_hour", "fp16_tflops"} <= set(conventions)
    assert set(conventions) <= {*GpuCard.__dataclass_fields__}


def test_derived_matrix_rates_are_what_their_formula_gives() -> None:
    formula = re.compile(r"derived: (\d+) SM x ([\d.]+) GHz x (\d+) .*?, (\d+) with fp16")
    derived = [(card, match) for card in all_gpu_cards() if (match := formula.match(card.tensor_basis or ""))]
    assert len(derived) == 79
    for card, match in derived:
        multiprocessors, clock_ghz, per_clock, per_clock_fp16 = int(match[1]), float(match[2]), int(match[3]), int(match[4])
        assert multiprocessors == card.sm_count
        assert card.fp16_tflops == pytest.approx(multiprocessors * clock_ghz * per_clock / 1e3, abs=0.06)
        if card.fp16_fp16acc_tflops is not None:
            assert card.fp16_fp16acc_tflops == pytest.approx(multiprocessors * clock_ghz * per_clock_fp16 / 1e3, abs=0.06)


def test_boards_with_one_nvml_string_differ_in_memory() -> None:
    by_string: dict[str, list[GpuCard]] = {}
    for card in all_gpu_cards():
        for string in card.nvml_names:
            by_string.setdefault(string, []).append(card)
    shared = {string: [card.memory_bytes for card in cards] for string, cards in by_string.items() if len(cards) > 1}
    assert len(shared) == 6
    assert all(len(set(memories)) == len(memories) for memories in shared.values())


def test_units_of_a_gpu() -> None:
    gpu = card_to_gpu(_card("RTX 4090"))
    assert gpu.memory_bytes == 24564 << 20  # what nvidia-smi shows, not 24 GiB
    assert gpu.bandwidth_bytes_per_s == 1008e9
    assert gpu.fp16_flops_per_s == gpu.bf16_flops_per_s == pytest.approx(165.2e12)
    assert gpu.compute_capability == (8, 9)
    assert card_to_gpu(_card("A100 SXM4 80GB")).memory_bytes == 80 * GIB  # nominal: no listing shows the total
    assert card_to_gpu(_card("A100 SXM4 80GB")).nvlink_bytes_per_s == 600e9


def test_processors_and_the_pcie_link_come_from_the_card() -> None:
    gpu = card_to_gpu(_card("A100 SXM4 80GB"))
    assert gpu.processors == 108
    assert gpu.pcie_bytes_per_s == pytest.approx(31.5e9, rel=1e-3)  # 16 lanes of generation 4
    assert card_to_gpu(_card("RTX 4060")).pcie_bytes_per_s == pytest.approx(15.75e9, rel=1e-3)  # 8 lanes
    assert card_to_gpu(_card("H100 SXM5 80GB")).pcie_bytes_per_s == pytest.approx(63e9, rel=1e-3)  # generation 5
    assert "processors" in card_to_gpu(replace(_card("A100 SXM4 80GB"), unconfirmed=("sm_count",))).unconfirmed
    for card in all_gpu_cards():
        if card.sm_count is None or card.memory_bytes is None:
            continue
        processors = card_to_gpu(card).processors
        assert processors is not None
        assert processors * card.devices_per_board == card.sm_count


def test_the_price_is_the_median_over_all_points_and_marked_when_it_rests_on_one() -> None:
    t4, single = _card("T4"), _card("RTX 3060 12GB")
    assert t4.price_usd_per_gpu_hour is not None
    assert card_to_gpu(t4).price_usd_per_hour == t4.price_usd_per_gpu_hour.median_all
    assert "price_usd_per_hour" not in card_to_gpu(t4).unconfirmed
    assert "price_usd_per_hour" in card_to_gpu(single).unconfirmed
    assert card_to_gpu(_card("RTX 5070")).price_usd_per_hour is None


def test_weak_values_are_unconfirmed_under_the_gpus_own_field_names() -> None:
    assert {"fp16_flops_per_s", "int8_ops_per_s"} <= set(card_to_gpu(_card("RTX 2080 Ti")).unconfirmed)
    assert "fp16_flops_per_s" not in card_to_gpu(_card("RTX 3090")).unconfirmed
    assert "supports_flash_attention_2" in card_to_gpu(_card("B200 SXM")).unconfirmed
    m2 = card_to_gpu(_card("Apple M2"))
    assert {"memory_bytes", "supports_bf16", "supports_bitsandbytes"} <= set(m2.unconfirmed)
    assert "memory_bytes" not in card_to_gpu(_card("Apple M2"), memory_bytes=16 * GIB).unconfirmed
    fields = set(type(m2).__dataclass_fields__)
    assert all(set(card_to_gpu(card).unconfirmed) <= fields for card in all_gpu_cards() if card.memory_bytes)


def test_a_board_of_two_devices_shares_its_figures_out() -> None:
    card = _card("MI250X")
    gpu = card_to_gpu(card)
    assert (gpu.memory_bytes, gpu.bandwidth_bytes_per_s, gpu.bf16_flops_per_s) == (64 * GIB, 1640e9, 191.5e12)
    assert card_to_gpu(replace(card, devices_per_board=1)).memory_bytes == 128 * GIB


def test_what_cuda_shows_is_less_than_the_board_has() -> None:
    t4 = card_to_gpu(_card("T4"))
    assert t4.memory_bytes == 16 * GIB
    assert t4.visible_bytes == int(14.74 * GIB)
    assert all(card.visible_bytes < card.memory_gib * GIB for card in all_gpu_cards() if card.visible_bytes and card.memory_gib)
    shares = {card.name: card.visible_bytes for card in all_gpu_cards() if card.vendor == "NVIDIA" and card.form not in ("embedded", "soc")}
    assert None not in shares.values()


def test_boards_nobody_reported_follow_the_rule() -> None:
    """The rule, put to the boards whose figure is known, finds it; a board whose memory the caller names has no such figure."""
    for card in all_gpu_cards():
        known = card.visible_bytes
        ruled = replace(card, visible_memory_gib=None, visible_memory_source=None).visible_bytes
        shared_with_the_cpu = card.name.startswith("GB10")
        if card.visible_memory_gib and known and ruled and not shared_with_the_cpu:
            small = (card.memory_gib or 0) < 12
            assert ruled == pytest.approx(known, rel=0.036 if small else 0.016), card.name
    assert _card("L40").visible_bytes == pytest.approx(_card("L40S").visible_bytes, rel=0.002)
    assert card_to_gpu(_card("T4"), memory_bytes=15 * GIB).visible_bytes is None
    assert _card("Apple M2").visible_bytes is None
    assert card_to_gpu(_card("MI250X")).visible_bytes == pytest.approx(65520 << 20, rel=1e-3)


def test_unknown_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="M3 Max"):
        card_to_gpu(_card("Apple M3 Max"))


def test_the_schema_accepts_a_good_entry() -> None:
    assert validate_card(GOOD, where="x.yaml", sources=LEGEND).bf16_tflops == 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bf16_tflop": 1}, "unknown key 'bf16_tflop'"),
        ({"memory_gib": "48 GB"}, "memory_gib"),
        ({"memory_gib": -1}, "not positive"),
        ({"bf16_tflops": float("nan")}, "not positive"),
        ({"form": "toaster"}, "form"),
        ({"sources": []}, "sources is empty"),
        ({"sources": ["my uncle"]}, "not in the legend"),
        ({"supports_bf16": False}, "supports_bf16 is false"),
        ({"tensor_basis": None}, "tensor_basis"),
        ({"compute_capability": None}, "compute_capability"),
        ({"unconfirmed": ["tdp_w"]}, "does not state"),
        ({"visible_memory_gib": 47.4}, "visible_memory_source go together"),
        ({"visible_memory_gib": 49, "visible_memory_source": "a log"}, "larger than memory_gib"),
        ({"nvml_names_verified": ["NVIDIA X"]}, "nvml_names lacks"),
        ({"release_date": "last May"}, "not YYYY-MM-DD"),
        ({"price_usd_per_gpu_hour": {"median_all": 1.0, "n_all": 2, "points": ["one"]}}, "price without points"),
        ({"price_usd_per_gpu_hour": {"median": 1.0}}, "unknown key 'median'"),
    ],
)
def test_the_schema_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        validate_card({**GOOD, **change}, where="x.yaml", sources=LEGEND)
    assert "x.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_key_gets_the_nearest_one() -> None:
    with pytest.raises(InputError) as caught:
        validate_card({**GOOD, "bf16_tflop": 1}, where="x.yaml", sources=LEGEND)
    assert "bf16_tflops" in (caught.value.hint or "")


def test_an_entry_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(InputError, match="mapping"):
        validate_card(["RTX"], where="x.yaml", sources=LEGEND)
