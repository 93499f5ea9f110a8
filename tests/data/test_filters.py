from __future__ import annotations

import json

import numpy as np
import pytest

from nat.data.filters import DropReport, FilterConfig, Lengths, apply_rules, drop_rules, is_blank
from nat.data.tokenized import prepare

# (source words, target words, source tokens, target tokens), what becomes of the pair
CASES = [
    ((3, 3, 4, 4), None),
    ((0, 3, 0, 4), "empty source"),
    ((3, 0, 4, 0), "empty target"),
    ((0, 0, 0, 0), "empty source"),
    ((1, 1, 0, 1), "empty source"),  # nothing but characters that the tokenizer ignores
    ((8, 8, 9, 9), None),
    ((9, 3, 9, 9), "more than 8 words"),
    ((3, 9, 99, 1), "more than 8 words"),
    ((1, 2, 1, 9), "fewer than 2 tokens"),
    ((8, 8, 50, 50), None),
    ((8, 8, 51, 50), "more than 50 tokens"),
    ((8, 8, 49, 51), "more than 50 tokens"),
    ((8, 3, 10, 3), None),  # the longer side is not over ratio_from
    ((8, 3, 12, 4), None),  # exactly the ratio
    ((8, 3, 13, 4), "length ratio over 3"),
    ((3, 8, 4, 13), "length ratio over 3"),
]
FILTERS = FilterConfig(min_tokens=2, max_tokens=50, max_ratio=3.0, ratio_from=10)
LINES = np.arange(101, 101 + len(CASES))


def outcome(**options) -> tuple[np.ndarray, DropReport]:
    lengths = Lengths(*np.array([case for case, _ in CASES]).T)
    rules = drop_rules(lengths, **options)
    return apply_rules(DropReport("train").read(len(CASES)), LINES, rules)


def expected(*reasons: str) -> dict[str, list[int]]:
    found = {r: [int(n) for n, (_, reason) in zip(LINES, CASES, strict=True) if reason == r] for r in reasons}
    assert all(found.values())
    return found


def test_every_reason_is_counted_once_with_its_first_line():
    keep, report = outcome(max_words=8, filters=FILTERS)
    assert keep.tolist() == [reason is None for _, reason in CASES]
    lines = expected(*{reason for _, reason in CASES if reason})
    assert report.reasons == {reason: len(numbers) for reason, numbers in lines.items()}
    assert report.first_line == {reason: numbers[0] for reason, numbers in lines.items()}
    assert (report.total, report.kept, report.dropped) == (len(CASES), keep.sum(), len(CASES) - keep.sum())


def test_without_filters_only_the_corpus_is_defined():
    keep, report = outcome(max_words=8, filters=None)
    assert set(report.reasons) == {"empty source", "empty target", "more than 8 words"}
    keep, report = outcome(max_words=None, filters=None)
    assert set(report.reasons) == {"empty source", "empty target"}
    assert keep.sum() == len(CASES) - 4


def test_no_ratio():
    _, report = outcome(max_words=8, filters=FilterConfig(max_ratio=None))
    assert not any("ratio" in reason for reason in report.reasons)


def test_sentences():
    report = DropReport("train").read(10)
    assert report.lines() == ["train: 10 of 10 pairs kept"]
    report = report.drop("empty target", np.array([7])).drop("more than 12 words", np.array([9, 3]))
    report = report.drop("more than 12 words", np.array([2])).drop("nothing", np.array([], dtype=int))
    (line,) = report.lines()
    assert line == (
        "train: 6 of 10 pairs kept; dropped 4: 3 more than 12 words (first at line 2), 1 empty target (first at line 7)"
    )


def test_cut_sources_are_counted_and_told():
    report = DropReport("train").read(10, num_cut=3).read(5, num_cut=1)
    assert report.lines() == ["train: 15 of 15 pairs kept (4 sources cut to data.source_words)"]
    report = report.drop("empty target", np.array([7]))
    assert report.lines()[0].startswith("train: 14 of 15 pairs kept (4 sources cut to data.source_words); dropped 1")
    assert report.to_plain()["cut_sources"] == 4
    assert DropReport("train").read(2).to_plain()["cut_sources"] == 0


@pytest.mark.parametrize("streaming", [False, True])
def test_limits_judge_what_is_left_of_a_source(tmp_path, data, tokenizers, streaming):
    path = tmp_path / "t.tsv"
    path.write_text("en\tde\nOpen\tÖffnen\nOpen the file menu\tÖffnen\nOpen the\tEins zwei drei\n")
    config = data(train=str(path), source_words=2, max_words=2, filters={"max_ratio": None}, streaming=streaming)
    corpus = prepare(config, "train", tokenizers, filtered=True)
    pairs = [pair for update in corpus.updates(1000, seed=1, epoch=0) for pair in update]
    assert sorted(pair.source for pair in pairs) == sorted(tokenizers.source.encode(["Open", "Open the"]))
    assert (corpus.report.num_cut, corpus.report.reasons) == (1, {"more than 2 words": 1})


def test_plain_form_goes_into_json():
    _, report = outcome(max_words=8, filters=FILTERS)
    plain = json.loads(json.dumps(report.to_plain()))
    assert plain["dropped"] == sum(item["pairs"] for item in plain["reasons"].values()) == report.dropped
    assert plain["reasons"]["empty source"] == {"pairs": 3, "first_line": 102}


def test_on_a_file(tmp_path, data, tokenizers):
    path = tmp_path / "t.tsv"
    path.write_text("en\tde\nOpen\tÖffnen\n\tleer\n  \tleer\nempty\t\none two three four\tx\nOpen\tÖffnen\n")
    config = data(train=str(path), valid=str(path), max_words=3, filters={"max_tokens": 40, "max_ratio": None})
    corpus = prepare(config, "valid", tokenizers, filtered=False)
    assert corpus.report.reasons == {"empty source": 2, "empty target": 1, "more than 3 words": 1}
    assert corpus.report.first_line == {"empty source": 3, "empty target": 5, "more than 3 words": 6}
    assert corpus.lines.tolist() == [2, 7]


@pytest.mark.parametrize("text", ["", " ", "\t", "\u00a0", "\u3000", " \u2028\r"])
def test_a_text_without_a_word_is_blank_and_is_what_the_filter_calls_empty(text, tmp_path, data, tokenizers):
    assert is_blank(text) and not is_blank(f"{text}a")
    lines = [{"en": en, "de": de} for en, de in [("a cat", "eine Katze"), (text, "x"), ("x", text)]]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = prepare(data(train=str(tmp_path / "t.jsonl")), "train", tokenizers, filtered=True)
    assert corpus.report.reasons == {"empty source": 1, "empty target": 1}
