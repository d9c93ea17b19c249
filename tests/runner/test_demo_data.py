"""The demonstration data set: well-formed, balanced, without repetition, and right wherever it computes a number."""

from __future__ import annotations

import difflib
import json
import math
import re
from importlib.resources import files

import pytest

RAW = (files("ftadvise") / "runner" / "demo_data.jsonl").read_bytes().decode("utf-8")
ROWS: list[dict[str, str]] = [json.loads(line) for line in RAW.splitlines()]
DEMO_QUESTION = "What does QLoRA keep in 4 bits, and what does it train?"

MIB, GIB = 2**20, 2**30
CJK = re.compile(r"[\u4e00-\u9fff]")
NF4_BITS = 4 + 32 / 64  # a code and one fp32 scale per 64 weights
NF4_DOUBLE_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # 8-bit scales, one fp32 scale per 256 of them
MIXED_ADAMW = 2 + 2 + 4 + 4 + 4  # bf16 weight and gradient, fp32 master weight and two moments
FP32_ADAMW = 4 + 4 + 4 + 4  # weight, gradient, two moments
LLAMA3_8B = {"q": (4096, 4096), "k": (4096, 1024), "v": (4096, 1024), "o": (4096, 4096)}
LLAMA3_8B |= {"gate": (4096, 14336), "up": (4096, 14336), "down": (14336, 4096)}


def is_chinese(row: dict[str, str]) -> bool:
    return bool(CJK.search(row["instruction"] + row["output"]))


def normalised(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def tokens(row: dict[str, str]) -> list[str]:
    """Words and numbers; every Chinese character by itself."""
    return re.findall(r"[\u4e00-\u9fff]|[a-z]+|\d+", row["output"].casefold())


def lora(rank: int, d_in: int, d_out: int) -> int:
    return rank * (d_in + d_out)


ALL_LINEAR_16 = 32 * sum(lora(16, *shape) for shape in LLAMA3_8B.values())
MIXTRAL = 46.7e9

# instruction -> every number its answer must state, computed here
EXPECTED: dict[str, list[str]] = {
    # weights
    "How large are the weights in memory?": [f"{7e9 * 2 / GIB:.2f} GiB"],
    "Compute the size of the quantised base.": [f"{13e9 * NF4_BITS / 8 / GIB:.2f} GiB", f"{13 * NF4_BITS / 8:.2f}e9"],
    "Can the weights alone fit on a 48 GB card?": [f"{70e9 * NF4_DOUBLE_BITS / 8 / GIB:.2f} GiB", f"{70 * NF4_DOUBLE_BITS / 8:.2f}e9"],
    "这个模型的权重占多少显存？": [f"{14e9 * 2 / GIB:.2f} GiB"],
    "计算量化后基座的大小。": [f"{32e9 * NF4_DOUBLE_BITS / 8 / GIB:.2f} GiB", f"{3.2 * NF4_DOUBLE_BITS / 8:.3f}e10"],
    "单精度加载这个小模型要多少显存？": [f"{5e8 * 4 / GIB:.2f} GiB"],
    "按 8 比特加载，基座有多大？": [f"{7e9 / GIB:.2f} GiB"],
    "How much does double quantisation save?": [
        f"{NF4_BITS - NF4_DOUBLE_BITS:.3f} bits",
        f"{65 * (NF4_BITS - NF4_DOUBLE_BITS) / 8:.2f} GB",
        f"{65e9 * (NF4_BITS - NF4_DOUBLE_BITS) / 8 / GIB:.2f} GiB",
    ],
    "双重量化能省多少显存？": [
        f"{13e9 * (NF4_BITS - NF4_DOUBLE_BITS) / 8 / GIB:.2f} GiB",
        f"{130 * (NF4_BITS - NF4_DOUBLE_BITS) / 8:.2f}e8",
    ],
    "What is double quantisation?": [f"{NF4_DOUBLE_BITS - 4:.3f} bits", f"{NF4_BITS - 4} bits"],
    "Mixtral 8x7B 用 NF4 加双重量化，权重约占多少？": [
        f"{MIXTRAL * NF4_DOUBLE_BITS / 8 / GIB:.1f} GiB",
        f"{4.67 * NF4_DOUBLE_BITS / 8:.2f}e10",
    ],
    "Why does a mixture-of-experts model need so much memory if few experts are active?": [f"{MIXTRAL * 2 / GIB:.0f} GiB"],
    "混合专家模型为什么占显存大？": [f"{MIXTRAL * 2 / GIB:.0f} GiB"],
    "What happens to the embedding when the output head is tied to it?": [f"{49152 * 576 / 1e6:.1f} million", "21 %"],
    "输出头和词嵌入共享权重时怎么算显存？": [f"{round(49152 * 576 / 1e4, -1):,.0f} 万", f"{49152 * 576 / 134_515_008:.0%}"],
    "How large will this GGUF file be?": [f"{7e9 * 34 / 32 / GIB:.2f} GiB", f"{34 * 8 / 32} bits"],
    "导出的 GGUF 文件有多大？": [f"{7e9 * 18 / 32 / GIB:.2f} GiB", f"{18 * 8 / 32} 比特"],
    # adapters
    "What scale does the adapter get?": [f"{16 / 64:.2f}", f"alpha {2 * 64}"],
    "What scale does rank-stabilised LoRA use?": [f"{32 / math.sqrt(64):.1f}", f"{32 / 64}"],
    "适配器的缩放系数是多少？": [f"{32 / 8:.1f}"],
    "How many parameters does a LoRA adapter add to one layer?": [f"{lora(16, 4096, 4096):,}", f"{lora(16, 4096, 4096) / 4096**2:.2%}"],
    "How many trainable parameters does this LoRA set-up have?": [
        f"{2 * 32 * lora(8, 4096, 4096):,}",
        f"{64 * lora(8, 4096, 4096) / 6.74e9:.2%}",
    ],
    "How many trainable parameters does all-linear LoRA add?": [f"{ALL_LINEAR_16:,}", f"{ALL_LINEAR_16 / 8.03e9:.1%}"],
    "How much memory do adapter weights, gradients and AdamW states take?": [
        f"{ALL_LINEAR_16 * FP32_ADAMW // MIB} MiB",
        f"{ALL_LINEAR_16 * FP32_ADAMW:,} bytes",
    ],
    "How large is the adapter file on disk?": [
        f"{ALL_LINEAR_16 * 2 // MIB} MiB",
        f"{ALL_LINEAR_16 * 4 // MIB} MiB",
        f"{ALL_LINEAR_16 * 2:,}",
    ],
    "Does a higher rank make a run much larger?": [
        f"{3 * ALL_LINEAR_16 / 1e6:.0f} million",
        f"{3 * ALL_LINEAR_16 * FP32_ADAMW / GIB:.1f} GiB",
    ],
    "Is an 8-bit optimizer worth it for LoRA?": [f"{ALL_LINEAR_16 * 8 // MIB} MiB", f"{ALL_LINEAR_16 * 6 // MIB} MiB"],
    "一个基座怎样同时服务多个适配器？": [f"{ALL_LINEAR_16 * 2 // MIB} MiB", f"{100 * ALL_LINEAR_16 * 2 / GIB:.0f} GiB"],
    "这一层的 LoRA 有多少参数？": [f"{lora(16, 3584, 18944):,}", f"{lora(16, 3584, 18944) / (3584 * 18944):.2%}"],
    "一共训练多少参数？": [f"{48 * lora(16, 2048, 2048):,}", f"{48 * lora(16, 2048, 2048) * FP32_ADAMW // MIB} MiB"],
    "适配器的训练状态占多少显存？": [f"{2e7 * FP32_ADAMW / MIB:.0f} MiB"],
    "Should I adapt the embeddings too?": [f"{128256 * 4096 / 1e6:.0f} million"],
    "什么时候需要训练词嵌入？": [f"{128256 * 4096 / 1e8:.2f} 亿"],
    "How many parameters does prompt tuning train?": [f"{20 * 4096:,}", f"{20 * 4096 * FP32_ADAMW / MIB:.2f} MiB"],
    # training state
    "How much memory does full fine-tuning need before activations?": [f"{7e9 * MIXED_ADAMW / GIB:.1f} GiB"],
    "What do weights, gradients and optimizer states add up to here?": [f"{1.5e9 * 8 / GIB:.2f} GiB"],
    "全参数微调要多少显存（不含激活值）？": [f"{3e9 * MIXED_ADAMW / GIB:.1f} GiB"],
    "不用混合精度，全参数微调的模型状态有多大？": [f"{5e8 * FP32_ADAMW / GIB:.2f} GiB"],
    "How much does 8-bit AdamW save?": [f"{7e9 * (8 - 2) / GIB:.1f} GiB"],
    "8 比特优化器适合什么场合？": [f"{7e9 * (8 - 2) / GIB:.0f} GiB"],
    "How much model state does each GPU hold?": [f"{7e9 * MIXED_ADAMW / 4 / GIB:.2f} GiB"],
    "Work out the sharded model state on one card.": [f"{7e9 * (2 + 14 / 8) / GIB:.2f} GiB", f"{2 + 14 / 8} bytes"],
    "每张卡要放多少模型状态？": [f"{14e9 * MIXED_ADAMW / 8 / GIB:.2f} GiB"],
    "只切分优化器状态时，单卡的模型状态是多少？": [f"{7e9 * (4 + 12 / 4) / GIB:.1f} GiB"],
    "How much disk does a full fine-tuning checkpoint take?": [f"{7e9 * (2 + 8) / GIB:.1f} GiB", f"{7e9 * 4 / GIB:.0f} GiB"],
    "检查点要占多少磁盘？": [f"{1.5e9 * (2 + 8) / GIB:.0f} GiB"],
    # activations and loss
    "How much memory do the checkpoints themselves take?": [
        f"{32 * 4 * 2048 * 4096 * 2 / GIB:.2f} GiB",
        f"{32 * 4 * 2048 * 4096 * 2:,} bytes",
    ],
    "梯度检查点保存的隐藏状态有多大？": [f"{28 * 2 * 4096 * 3584 * 2 / GIB:.2f} GiB", f"{28 * 2 * 4096 * 3584 * 2:,}"],
    "How large is one eager attention score tensor?": [f"{32 * 4096**2 * 2 // GIB} GiB", f"{32 * 4096**2 * 2:,} bytes"],
    "一层 eager 注意力的分数矩阵有多大？": [f"{2 * 28 * 2048**2 * 2 // MIB} MiB", f"{2 * 28 * 2048**2 * 2:,}"],
    "为什么 eager 注意力不适合长序列？": [f"{32 * 8192**2 * 2 // GIB} GiB"],
    "How large is one copy of the logits?": [f"{8192 * 128256 * 4 / GIB:.2f} GiB", f"{8192 * 128256 * 12 / GIB:.2f} GiB"],
    "一份 logits 有多大？": [f"{8192 * 152064 * 4 / GIB:.2f} GiB", f"{8192 * 152064 * 12 / GIB:.0f} GiB"],
    "为什么词表大的模型容易在损失处显存不足？": [f"{8192 * 150_000 * 12 / GIB:.0f} GiB"],
    "Explain these three figures.": [f"{23.4 - 20.1:.1f} GiB", f"{24.0 - 23.4:.1f} GiB"],
    "说明这三个数字。": [f"{16.0 - 14.2:.1f} GiB", f"{16.5 - 16.0:.1f} GiB"],
    # steps, time, money
    "What is the effective batch size?": [f"{2 * 8 * 4}"],
    "等效批次是多少？": [f"{4 * 8 * 2}"],
    "How many optimizer steps will the run take?": [f"{3 * math.ceil(10_000 / 64)}"],
    "Compute the number of optimizer updates for this small data set.": [f"{5 * math.ceil(320 / 16)}"],
    "How many warm-up steps is that?": [f"{math.ceil(471 * 0.03)} steps"],
    "一共要更新多少步？": [f"{2 * math.ceil(5_000 / 32)} 步"],
    "计算这份小数据集的优化器更新次数。": [f"{3 * math.ceil(800 / 16)} 步"],
    "How long will training take?": [f"{5e6 / 2500 / 60:.0f} minutes"],
    "训练要多长时间？": [f"{12e6 / 4000 / 60:.0f} 分钟"],
    "What will the run cost?": [f"${6 * 4 * 2}"],
    "这次训练要花多少钱？": [f"{8 * 2 * 1.5:.0f} 美元"],
    "How many floating-point operations does LoRA training need?": [
        f"{4 * 7e9 * 1e6 / 1e16:.1f}e16",
        f"{4 * 7e9 * 1e6 / 100e12:.0f} seconds",
    ],
    "LoRA 训练的计算量怎么估？": [f"{4 * 1.5e9 * 1e7 / 1e16:.0f}e16", f"{6 * 1.5e9 * 1e7 / 1e16:.0f}e16"],
    "What share of this batch is padding?": [f"{round(100 * (1 - 1600 / 4000))} %"],
    "这一批里填充占多少？": [f"{1 - 1200 / 3200:.1%}"],
    "How many packed sequences result?": [f"{math.ceil(12_000 * 170 / 2048)}"],
    "打包后大约有多少条序列？": [f"{math.ceil(8_000 * 250 / 2048)}"],
    # loss
    "What is perplexity?": [f"{math.exp(1.2):.2f}"],
    "What perplexity does this loss correspond to?": [f"{math.exp(2.0):.2f}", f"{math.exp(1.8):.2f}"],
    "困惑度怎么算？": [f"{math.exp(1.5):.2f}"],
    "这个损失对应多大的困惑度？": [f"{math.exp(0.9):.2f}"],
    "What loss should an untrained model show?": [f"{math.log(49152):.2f}"],
    "随机初始化的模型损失大约是多少？": [f"{math.log(151936):.2f}"],
}


def test_each_line_is_one_object_with_the_three_text_fields() -> None:
    assert RAW.endswith("\n")
    assert "\ufeff" not in RAW
    assert "\ufffd" not in RAW
    for number, row in enumerate(ROWS, start=1):
        assert list(row) == ["instruction", "input", "output"], number
        assert all(isinstance(value, str) and value == value.strip() for value in row.values()), number
        assert row["instruction"], number
        assert row["output"], number


def test_both_languages_have_about_half() -> None:
    share = sum(map(is_chinese, ROWS)) / len(ROWS)
    assert len(ROWS) >= 320
    assert 0.45 <= share <= 0.55


def test_a_row_stays_in_its_language() -> None:
    for row in ROWS:
        assert bool(CJK.search(row["instruction"])) == bool(CJK.search(row["output"])), row["instruction"]


def test_any_stretch_of_the_file_holds_both_languages() -> None:
    for start in range(0, len(ROWS) - 10):
        chinese = sum(map(is_chinese, ROWS[start : start + 10]))
        assert 3 <= chinese <= 7, start


def test_answers_are_short() -> None:
    for row in ROWS:
        if is_chinese(row):
            assert 40 <= len(re.sub(r"\s", "", row["output"])) <= 130, row["instruction"]
        else:
            assert 25 <= len(row["output"].split()) <= 90, row["instruction"]


def test_instructions_are_unique() -> None:
    seen = [normalised(row["instruction"]) for row in ROWS]
    assert len(set(seen)) == len(seen)


def test_no_two_answers_are_nearly_the_same() -> None:
    answers = [tokens(row) for row in ROWS]
    matcher: difflib.SequenceMatcher[str] = difflib.SequenceMatcher(autojunk=False)
    for index, answer in enumerate(answers):
        matcher.set_seq2(answer)
        for other in answers[:index]:
            matcher.set_seq1(other)
            similar = matcher.real_quick_ratio() > 0.8 and matcher.quick_ratio() > 0.8 and matcher.ratio() > 0.8
            assert not similar, (ROWS[index]["instruction"], " ".join(other))


def test_the_demo_question_is_asked_only_in_other_words() -> None:
    assert normalised(DEMO_QUESTION) not in {normalised(row["instruction"]) for row in ROWS}
    house_answer = "QLoRA keeps the frozen base weights in 4-bit NF4 and trains only the small LoRA adapters in higher precision"
    assert sum(house_answer in row["output"] for row in ROWS) == 8


@pytest.mark.parametrize(("instruction", "numbers"), EXPECTED.items())
def test_numbers_are_right(instruction: str, numbers: list[str]) -> None:
    (answer,) = [row["output"] for row in ROWS if row["instruction"] == instruction]
    answer = re.sub(r"(?<=\d) %", "%", answer)
    for number in numbers:
        exact = rf"(?<![\d.,]){re.escape(number.replace(' %', '%'))}(?!\d|[.,]\d)"
        assert re.search(exact, answer), f"{number} is not in: {answer}"


def test_every_row_with_a_setting_is_recomputed() -> None:
    assert {row["instruction"] for row in ROWS if row["input"]} <= set(EXPECTED)
