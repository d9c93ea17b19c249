"""Rates of devices: the shares in efficiency.yaml, what they make of data sheets, and products measured on real boards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.speed.device_rates import BLOCKS, efficiency_of, load_efficiency, rates_of
from ftadvise.estimator.speed.rates import Rates
from ftadvise.profiles.gpu_cards import GpuCard, all_gpu_cards, card_to_gpu
from ftadvise.profiles.hardware import GIB, Cpu, Gpu, Hardware
from ftadvise.profiles.resolve_gpu import resolve_gpus

CPU = Cpu("a processor", 4, 8, supports_bf16=False, supports_amx=False)
CARDS = all_gpu_cards()

# Name, dtype, 10^12 FLOP/s that torch.matmul reached. github.com/zzc0721/torch-performance-test-data (database.md and issues; where a
# report has several sizes, the mean of 8192 and 10240) and stas00/ml-engineering, compute/accelerator/README.md (marked M).
MEASURED = (
    ("P40", "fp32", 10.07),
    ("P100 PCIe 16GB", "fp32", 8.6),
    ("P100 PCIe 16GB", "fp16", 7.72),
    ("V100 SXM2 16GB", "fp16", 93.4),
    ("V100 SXM2 16GB", "fp32", 14.45),
    ("V100S PCIe 32GB", "fp16", 88.92),
    ("RTX 2080", "fp16", 39.03),
    ("RTX 2080 Ti", "fp16", 54.7),
    ("RTX 2080 Ti", "fp32", 12.9),
    ("A100 SXM4 80GB", "bf16", 271.2),  # M
    ("A100 SXM4 80GB", "fp32", 19.18),
    ("A100 PCIe 80GB", "bf16", 252.9),  # M
    ("A100 PCIe 40GB", "bf16", 213.5),
    ("A100 PCIe 40GB", "fp32", 17.1),
    ("A10G", "bf16", 68.0),
    ("A10G", "fp32", 22.8),
    ("A40", "bf16", 116.5),
    ("A40", "tf32", 59.5),
    ("A40", "fp32", 23.3),
    ("RTX A4000", "bf16", 56.0),
    ("RTX A4000", "fp32", 11.4),
    ("RTX 3060 12GB", "bf16", 25.4),
    ("RTX 3080 10GB", "bf16", 64.1),
    ("RTX 3080 10GB", "fp32", 20.6),
    ("RTX 3090", "bf16", 76.5),
    ("RTX 3090", "fp32", 24.6),
    ("L4", "bf16", 58.2),
    ("L20", "bf16", 111.0),
    ("L20", "fp32", 35.6),
    ("RTX 4060", "bf16", 30.2),
    ("RTX 4060 Ti 16GB", "bf16", 47.6),
    ("RTX 4070 SUPER", "bf16", 76.8),
    ("RTX 4090", "bf16", 159.4),
    ("RTX 4090", "tf32", 85.1),
    ("RTX 4090", "fp32", 52.4),
    ("RTX 4090 D", "bf16", 148.6),
    ("H100 SXM5 80GB", "bf16", 794.5),  # M
    ("H100 SXM5 80GB", "fp32", 50.7),
    ("H100 PCIe 80GB", "bf16", 482.3),
    ("H100 PCIe 80GB", "fp32", 36.4),
    ("H20 96GB", "bf16", 140.4),
    ("GH200 141GB", "bf16", 828.6),  # M
    ("B200 SXM", "bf16", 1745.0),  # M
    ("B200 SXM", "fp32", 66.24),
    ("B300 SXM", "bf16", 1769.0),  # M
    ("GB200", "bf16", 1822.0),  # M
    ("RTX 5090", "bf16", 206.0),  # between two reports, 177 and 236
    ("RTX PRO 6000 Blackwell Workstation", "bf16", 342.0),
    ("MI250X", "bf16", 147.0),  # M, one of its two devices
    ("MI300X", "bf16", 668.4),  # M
    ("MI355X", "bf16", 1565.0),  # M
    ("RX 7900 XTX", "fp16", 91.0),
    ("RX 7900 XTX", "fp32", 24.5),
    ("Intel Gaudi2", "bf16", 418.7),  # M
    ("Intel Gaudi3", "bf16", 1243.0),  # M
)


def _machine(*gpus: Gpu, cpu: Cpu = CPU) -> Hardware:
    return Hardware(gpus=gpus, cpu=cpu, ram_bytes=64 * GIB, ram_available_bytes=48 * GIB, source="named")


def _gpu(card: GpuCard) -> Gpu:
    return card_to_gpu(card, memory_bytes=card.memory_bytes or 16 * GIB)


def _rates(name: str, *, devices: int = 1) -> Rates:
    (gpu,) = set(resolve_gpus(name))
    rates = rates_of(_machine(*(gpu,) * devices))
    assert rates is not None
    return rates


def _entries() -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = load_efficiency()["gpu"]
    yield "default", table["default"]
    yield from table["architectures"].items()
    yield "laptop", table["laptop"]


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, (int, float)):
        yield value


def test_every_block_has_sources_that_exist_and_marks_only_what_it_states() -> None:
    legend = load_efficiency()["sources"]
    used = set()
    for name, entry in _entries():
        assert set(entry) <= {*BLOCKS, "interval", "compute_capabilities"}, name
        for block_name in set(entry) & set(BLOCKS):
            block = entry[block_name]
            assert block["sources"], (name, block_name)
            used.update(block["sources"])
            assert set(block.get("unconfirmed", ())) <= set(block) - {"sources", "unconfirmed"}, (name, block_name)
    assert used == set(legend)
    assert all(text.strip() for text in legend.values())


def test_shares_are_shares_and_latencies_are_microseconds() -> None:
    for name, entry in _entries():
        for block_name in set(entry) & set(BLOCKS):
            for key, value in entry[block_name].items():
                if key in ("sources", "unconfirmed"):
                    continue
                if key == "host_spread":
                    assert 1 <= value < 10, (name, key)
                elif block_name == "latency":
                    assert 1e-7 < value < 1e-4, (name, key)
                elif key == "cache":
                    assert 1 < value < 10, (name, key)
                elif key == "network":
                    assert 1e9 < value < 1e11, (name, key)
                else:
                    # Laptops run above the clock that data sheets give, and per_root_watt is a share at one watt per 10^12 FLOP/s.
                    assert 0 < value <= (1.3 if name == "laptop" or key == "per_root_watt" else 1.1), (name, key)
        low, high = entry.get("interval", (0.5, 1.5))
        assert 0 < low < 1 < high


def test_the_default_states_every_block_and_the_others_only_keys_of_rates() -> None:
    default = load_efficiency()["gpu"]["default"]
    assert set(BLOCKS) < set(default)
    for name, entry in _entries():
        for block_name in ("bandwidth", "dequantize", "latency", "link"):
            assert set(entry.get(block_name, {})) <= {*default[block_name], "unconfirmed"}, name


def test_a_compute_capability_belongs_to_one_architecture_and_every_nvidia_card_has_one() -> None:
    known = [capability for _, entry in _entries() for capability in entry.get("compute_capabilities", ())]
    assert len(known) == len(set(known))
    assert {card.compute_capability for card in CARDS if card.vendor == "NVIDIA"} <= set(known)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_has_rates_or_lacks_the_figures_for_them(card: GpuCard) -> None:
    rates = rates_of(_machine(_gpu(card)))
    peaks = {"fp32": card.fp32_tflops, "tf32": card.tf32_tflops, "fp16": card.fp16_tflops, "bf16": card.bf16_tflops}
    if rates is None:
        assert card.bandwidth_gb_per_s is None or not any(peaks.values())
        return
    for field in fields(Rates):
        assert all(number >= 0 for number in _numbers(getattr(rates, field.name)))
    for dtype, rate in rates.matmul_flops_per_s.items():
        peak = peaks[dtype]
        assert peak is not None or (dtype == "fp16" and card.compute_capability in ("6.0", "6.1", "7.5"))
        assert peak is None or 0.3 < rate / (peak * 1e12) * card.devices_per_board < 1.3
    assert ("bf16" in rates.matmul_flops_per_s) == (card.bf16_tflops is not None)
    assert rates.bandwidth_bytes_per_s < (card.bandwidth_gb_per_s or 0) * 1e9
    assert rates.processors == (card.sm_count or 0)
    assert set(card.sources) < set(rates.sources)
    assert rates.link_bytes_per_s is None


@pytest.mark.parametrize(("name", "dtype", "teraflops"), MEASURED)
def test_products_are_within_a_fifth_of_what_boards_reach(name: str, dtype: str, teraflops: float) -> None:
    card = next(card for card in CARDS if card.name == name)
    rates = rates_of(_machine(_gpu(card)))
    assert rates is not None
    assert rates.matmul_flops_per_s[dtype] == pytest.approx(teraflops * 1e12, rel=0.2)


def test_a_power_limit_slows_products_down_and_more_so_the_lower_it_is() -> None:
    (l4,) = resolve_gpus("L4")
    watts = (40, 72, 150, 400, None)
    reached = []
    for tdp in watts:
        rates = rates_of(_machine(replace(l4, tdp_w=tdp)))
        assert rates is not None
        reached.append(rates.matmul_flops_per_s["bf16"])
    assert reached == sorted(reached)
    assert reached[1] < reached[2] / 1.4
    assert reached[3] == reached[4]


def test_fp32_products_are_not_the_tensor_cores() -> None:
    rates = _rates("A100-80GB SXM")
    assert rates.matmul_flops_per_s["fp32"] < rates.matmul_flops_per_s["tf32"] / 5


def test_what_a_gpu_cannot_do_has_no_rate() -> None:
    assert "bf16" not in _rates("T4").matmul_flops_per_s
    assert "tf32" not in _rates("V100 SXM2 16GB").matmul_flops_per_s
    (a100,) = resolve_gpus("A100-80GB SXM")
    assert rates_of(_machine(replace(a100, bandwidth_bytes_per_s=None))) is None
    bare = Gpu(name="unheard of", vendor="NVIDIA", arch="unknown", memory_bytes=24 * GIB, compute_capability=(8, 9))
    assert rates_of(_machine(bare)) is None


def test_expanding_a_weight_moves_more_than_its_own_bytes() -> None:
    for name in ("T4", "RTX 4090", "A100-80GB SXM", "H100 SXM"):
        rates = _rates(name)
        nf4, int8 = rates.dequantize_bytes_per_s["nf4"], rates.dequantize_bytes_per_s["int8"]
        assert int8 < nf4 < rates.bandwidth_bytes_per_s * 2 / 2.5 or name == "H100 SXM"


def test_links_are_nvlink_where_there_is_one_else_pcie() -> None:
    assert _rates("A100-80GB SXM", devices=8).link_bytes_per_s == pytest.approx(235e9, rel=0.05)  # all-reduce of 8, ml-engineering
    assert _rates("H200 SXM", devices=8).link_bytes_per_s == pytest.approx(367.6e9, rel=0.05)  # the same, by ring
    assert _rates("RTX 5090", devices=8).link_bytes_per_s == pytest.approx(28e9, rel=0.05)  # nccl issue 1639
    assert _rates("RTX 5090").link_bytes_per_s is None
    apple = _gpu(next(card for card in CARDS if card.name == "Apple M2 Max"))
    rates = rates_of(_machine(apple, apple))
    assert rates is not None
    assert rates.link_bytes_per_s is None


def test_doubt_about_the_data_sheet_widens_the_interval() -> None:
    (gpu,) = resolve_gpus("RTX 4090")
    sure, unsure = efficiency_of(replace(gpu, unconfirmed=())), efficiency_of(replace(gpu, unconfirmed=("bf16_flops_per_s",)))
    assert unsure.interval[0] < sure.interval[0] < 1 < sure.interval[1] < unsure.interval[1]
    assert efficiency_of(replace(gpu, unconfirmed=("price_usd_per_hour",))).interval == sure.interval


def test_an_unknown_architecture_gets_the_default_and_the_widest_interval() -> None:
    future = Gpu("Rubin", "NVIDIA", "Rubin", 288 * GIB, compute_capability=(13, 0), bandwidth_bytes_per_s=2e13, bf16_flops_per_s=1e16)
    default = load_efficiency()["gpu"]["default"]
    assert efficiency_of(future).interval == tuple(default["interval"])
    for name, entry in _entries():
        low, high = entry.get("interval", default["interval"])
        assert low >= default["interval"][0], name
        assert high <= default["interval"][1], name


def test_laptops_reach_more_than_their_data_sheet() -> None:
    for name, measured in (("RTX 4060 Laptop", 27.5), ("RTX 4080 Laptop", 47.0), ("RTX 4070 Laptop", 42.0)):
        rates = _rates(name)
        low, high = rates.interval
        assert low < measured * 1e12 / rates.matmul_flops_per_s["bf16"] < high


@given(cores=st.integers(1, 256), avx512=st.booleans(), bf16=st.booleans(), amx=st.booleans())
def test_a_cpu_is_as_fast_as_its_cores_and_never_faster_in_16_bit_that_it_emulates(cores: int, avx512: bool, bf16: bool, amx: bool) -> None:
    cpu = Cpu("a processor", cores, 2 * cores, supports_bf16=bf16, supports_amx=amx, supports_avx512=avx512)
    rates, one = rates_of(_machine(cpu=cpu)), rates_of(_machine(cpu=replace(cpu, physical_cores=1)))
    assert rates is not None
    assert one is not None
    matmul = rates.matmul_flops_per_s
    assert matmul["fp32"] == pytest.approx(cores * one.matmul_flops_per_s["fp32"])
    assert matmul["fp16"] < matmul["fp32"]
    assert (matmul["bf16"] < matmul["fp32"]) == (not bf16 and not amx)
    assert set(rates.attention_share) >= {"forward", "backward"}
    assert rates.link_bytes_per_s is None
