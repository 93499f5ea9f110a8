"""BLEU's words: chosen by the script of the references, and said in the signature."""

from __future__ import annotations

import pytest
import sacrebleu

from nat.data.references import Reference
from nat.decoding.candidates import Candidates, Choice, choose
from nat.errors import ConfigError
from nat.evaluation.inputs import Text
from nat.scoring import tokenization
from nat.scoring.claims import Claim, examine
from nat.scoring.scores import score_corpus
from nat.scoring.tokenization import BleuTokenizer, tokenizer_of

CHINESE = ["请保存第3个文件,然后单击OK按钮。", "打开菜单中的帮助页面。"]
GUESSES = ["请保存第3个文件。", "打开帮助页面。"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "13a"),
        ("Öffnet die Datei.", "13a"),
        ("Откройте файл.", "13a"),
        ("123 456", "13a"),
        ("Öffnet 文件 und speichert die Datei.", "13a"),
        (CHINESE[0], "zh"),
        ("ファイルを保存します。", "ja-mecab"),
        ("파일을 저장하십시오.", "ko-mecab"),
        ("บันทึกไฟล์", "char"),
    ],
)
def test_the_script_decides(monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    monkeypatch.setattr(tokenization, "find_spec", lambda name: name)
    assert tokenizer_of([text]).value == expected


def test_characters_where_a_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenization, "find_spec", lambda name: None)
    assert tokenizer_of(["ファイルを保存します。"]) is BleuTokenizer.CHARACTERS
    with pytest.raises(ConfigError, match=r"bleu_tokenizer=ja-mecab: MeCab and ipadic are missing; pip install"):
        BleuTokenizer.JAPANESE.check()
    BleuTokenizer.CHINESE.check()


def test_chinese_is_scored_by_its_characters() -> None:
    scores = score_corpus(GUESSES, CHINESE, ter=True)
    assert scores.bleu == sacrebleu.corpus_bleu(GUESSES, [CHINESE], tokenize="zh").score > 20
    assert "tok:zh" in scores.bleu_signature
    assert scores.length_ratio == pytest.approx((9 + 7) / (17 + 11))
    assert scores.ter is not None
    assert scores.ter < 100
    assert "asian:yes" in str(scores.ter_signature)
    assert "tok:13a" in score_corpus(GUESSES, CHINESE, tokenizer=BleuTokenizer.MTEVAL).bleu_signature
    several = [Reference("打开文件", "打开菜单"), "保存"]
    assert "tok:zh" in score_corpus(several, several).bleu_signature


def test_claims_and_choices_are_by_characters_too() -> None:
    references, worse = CHINESE * 10, [CHINESE[1], CHINESE[0]] * 10
    found = examine(Claim("a", "b"), {"a": GUESSES * 10, "b": worse}, references)
    assert found.better == score_corpus(GUESSES * 10, references).bleu > found.worse
    texts = ["打开帮助页面", "保存所有文件", "打开帮助页"]
    candidates = Candidates(texts, [[9]] * 3, [-1.0] * 3, 1, False)
    (chosen,) = choose([candidates], [""], choice=Choice.MBR_BLEU)
    assert chosen.utilities is not None
    assert chosen.chosen == 2
    assert chosen.utilities[0] > chosen.utilities[1]  # type: ignore[operator]


def test_a_text_knows_its_tokenizer() -> None:
    assert Text("test", CHINESE, CHINESE).tokenizer is BleuTokenizer.CHINESE
    assert Text("test", CHINESE, None).tokenizer is BleuTokenizer.MTEVAL
    assert Text("test", [], CHINESE, bleu_tokenizer=BleuTokenizer.CHARACTERS).tokenizer is BleuTokenizer.CHARACTERS
