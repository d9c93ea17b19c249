from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.profiles.nvml import MigInstance, NvmlDevice
from ftadvise.profiles.visible_devices import select_visible


def _device(index: int, uuid: str, card_uuid: str | None = None) -> NvmlDevice:
    mig = MigInstance("1g.5gb", 14, None) if card_uuid else None
    return NvmlDevice(index, "card", uuid, card_uuid or uuid, 1, 1, None, (), mig)


CARDS = (_device(0, "GPU-aa1"), _device(1, "GPU-aa2"), _device(2, "MIG-b1", "GPU-b"), _device(2, "MIG-b2", "GPU-b"))


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        (None, ["GPU-aa1", "GPU-aa2", "MIG-b1", "MIG-b2"]),
        ("1, 0", ["GPU-aa2", "GPU-aa1"]),
        ("1st", ["GPU-aa2"]),  # read like strtoul
        ("NoDevFiles", []),
        ("GPU-aa", []),  # two start like that
        ("GPU-aa2", ["GPU-aa2"]),
        ("2", ["MIG-b1", "MIG-b2"]),
        ("GPU-b", ["MIG-b1", "MIG-b2"]),
        ("MIG-b2", ["MIG-b2"]),
        ("MIG-b", []),
        ("MIG-b1,MIG-b1", []),
        ("0,,1", ["GPU-aa1"]),
    ],
)
def test_entries_are_read_as_cuda_reads_them(value: str | None, uuids: list[str]) -> None:
    assert [device.uuid for device in select_visible(value, CARDS)] == uuids


@given(st.text(max_size=40))
def test_whatever_the_variable_holds_the_result_is_a_choice_of_the_devices(value: str) -> None:
    chosen = select_visible(value, CARDS)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(CARDS)
