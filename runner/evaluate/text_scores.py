"""BLEU by sacrebleu and ROUGE by rouge-score, as statistics of each row. Both are told how to cut text that has no spaces between words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftadvise.profiles.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
_LEAST_SHARE = 0.1
"""Of the references: from here on a script decides how all of them are cut."""
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")
_LETTERS = re.compile(r"[^\W\d_]")


def check_text_libraries(metric: str) -> None:
    """Raise InputError, naming the command, when the library of "bleu" or "rouge" is not installed."""
    import importlib.util

    module, name = {"bleu": ("sacrebleu", "sacrebleu"), "rouge": ("rouge_score", "rouge-score")}[metric]
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{metric} needs {name}, which is not installed", hint='pip install "ftadvise[eval]"')


class Bleu:
    """Corpus BLEU, cut as the references ask for: "13a", "zh" where there is Chinese, "char" where there is Japanese or Korean."""

    def __init__(self, references: Sequence[str]) -> None:
        check_text_libraries("bleu")
        from sacrebleu.metrics import BLEU

        self.tokenize = "char" if _share(_KANA_OR_HANGUL, references) else "zh" if _share(_HAN, references) else "13a"
        self._rows = BLEU(tokenize=self.tokenize, effective_order=True)  # for one sentence; it counts the same n-grams
        self._corpus = BLEU(tokenize=self.tokenize)

    def statistics(self, answers: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """rows x 10: matching n-grams and n-grams of 1 to 4 words, length of the answer, length of the reference."""
        import numpy as np

        scores = [self._rows.sentence_score(answer, [reference]) for answer, reference in zip(answers, references, strict=True)]
        return np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores], dtype=np.float64)

    def value(self, sums: Any) -> float:
        """BLEU, 0 to 100, from the sums of the statistics."""
        numbers = [round(float(number)) for number in sums]
        score = self._corpus.compute_bleu(numbers[:4], numbers[4:8], numbers[8], numbers[9], smooth_method="exp")
        return float(score.score)

    @property
    def how(self) -> str:
        """What identifies the way of counting."""
        from importlib.metadata import version

        return f"sacrebleu {version('sacrebleu')}, tokenize {self.tokenize}, smooth exp"


class Rouge:
    """F-measures of ROUGE-1, -2 and -L. rouge-score knows a to z and 0 to 9 only, so other scripts get words of their own: each character
    of Chinese, Japanese and Korean, else what stands between spaces and signs."""

    def __init__(self, references: Sequence[str]) -> None:
        check_text_libraries("rouge")
        from rouge_score.rouge_scorer import RougeScorer

        self.own_words = _share(_LETTERS, [re.sub("[a-zA-Z]", "", reference) for reference in references])
        self._scorer = RougeScorer(list(ROUGE_TYPES), tokenizer=_Words() if self.own_words else None)

    def statistics(self, answers: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """rows x 3: the F-measure, 0 to 100, of each of `ROUGE_TYPES`."""
        import numpy as np

        scores = [self._scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
        return np.array([[100 * score[name].fmeasure for name in ROUGE_TYPES] for score in scores], dtype=np.float64)

    @property
    def how(self) -> str:
        """What identifies the way of counting."""
        from importlib.metadata import version

        cut = "characters of Chinese, Japanese and Korean, words of other scripts" if self.own_words else "its own words"
        return f"rouge-score {version('rouge-score')}, {cut}, no stemming"


class _Words:
    """A tokenizer for rouge-score, which only calls `tokenize`."""

    def tokenize(self, text: str) -> list[str]:
        return _SCRIPTS.findall(text.lower())


_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff"
_SCRIPTS = re.compile(f"[{_CHARACTER}]|(?:(?![{_CHARACTER}])[^\\W_])+")


def _share(script: re.Pattern[str], references: Sequence[str]) -> bool:
    """Whether enough of the references hold a letter of the script."""
    found = sum(script.search(reference) is not None for reference in references)
    return found > _LEAST_SHARE * len(references)
