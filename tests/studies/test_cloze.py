"""nat-cloze: words, gaps and answers; the command on a run that has hardly learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import command, make_model

from nat.cli.cloze import main
from nat.config import parse
from nat.data.batch import Draft
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.data.tokenizer import Tokenizer, TokenizerConfig, Tokenizers
from nat.decoding.batch_options import BatchOptions
from nat.models.contract import Translation
from nat.models.kermit import Kermit
from nat.nn.joint import Side
from nat.studies.cloze import ClozeConfig, Gap, Word, Words, answers, choose_gaps, cloze, describe, most_frequent

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    lines = read_lines(embedded_directory() / "lohelp" / "valid.tsv.gz")
    return [line.split("\t")[1] for line in lines][:200]


@pytest.fixture(scope="module")
def tokenizer(sentences: list[str]) -> Tokenizer:
    config = parse(TokenizerConfig, {"vocabulary_size": 400, "kind": "bpe"})
    return Tokenizers.train(config, sentences, sentences).target


def test_words_are_whole_and_without_punctuation(tokenizer: Tokenizer, sentences: list[str]) -> None:
    words = Words(tokenizer)
    (ids,) = tokenizer.encode(["Klicken Sie (dann) auf OK, um 3 Dateien zu öffnen."])
    found = words.of(ids)
    texts = [word.text for word in found]
    assert texts == ["Klicken", "Sie", "dann", "auf", "OK", "um", "Dateien", "zu", "öffnen"]
    for number, (text, ids) in enumerate(zip(sentences, tokenizer.encode(sentences), strict=True)):
        for word in words.of(ids):
            assert 0 <= word.start < word.end <= len(ids)
            assert tokenizer.decode([ids[word.start : word.end]])[0].strip() == word.text, number
            assert word.text in text
            rest = tokenizer.decode([ids[: word.start] + ids[word.end :]])[0]
            assert len(rest.replace(" ", "")) == len(text.replace(" ", "")) - len(word.text)
    assert words.of([]) == []


def test_the_choice_of_a_word_is_the_sentences_own(tokenizer: Tokenizer, sentences: list[str]) -> None:
    words, rows = Words(tokenizer), tokenizer.encode(sentences)
    gaps = choose_gaps(rows, Side.TARGET, words, seed=1)
    assert all(gap.word in words.of(rows[gap.pair]) for gap in gaps)
    last = choose_gaps(rows[-1:], Side.TARGET, words, seed=1)
    assert last == [replace(gaps[-1], pair=0)]
    other = choose_gaps(rows, Side.TARGET, words, seed=2)
    assert sum(a.word != b.word for a, b in zip(gaps, other, strict=True)) > len(gaps) / 2
    with_words = [number for number, ids in enumerate(rows) if words.of(ids)]
    assert [gap.pair for gap in gaps] == with_words
    places = [gap.word.start / max(1, len(rows[gap.pair])) for gap in gaps]
    assert 0.25 < sum(places) / len(places) < 0.6  # anywhere


def test_the_most_frequent_word(tokenizer: Tokenizer) -> None:
    rows = tokenizer.encode(["die Datei", "die Seite.", "der Seite", "der 3 , ."])
    assert most_frequent(rows, Words(tokenizer)) == "Seite"  # of three that are there twice, the first


def test_answers_are_what_stands_in_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that inserts 11, 12 into every open gap of the side and leaves all else."""
    model = make_model("kermit")
    assert isinstance(model, Kermit)
    pairs = [([7, 8, 9], [10, 7]), ([8], [9, 10, 7, 8]), ([7, 9], [8, 7])]
    gaps = [
        Gap(0, Side.SOURCE, Word(1, 2, "")),
        Gap(1, Side.TARGET, Word(1, 3, "")),
        Gap(2, Side.TARGET, Word(1, 2, "")),
    ]

    def fill(source: Draft, target: Draft, *, decoding: Any, nonempty: bool) -> tuple[Translation, Translation]:
        assert nonempty
        sides = []
        for draft in (source, target):
            assert torch.equal(draft.fixed, draft.valid)
            rows = []
            for ids, closed in zip(draft.to_lists(), draft.closed.tolist(), strict=True):
                places = [g for g in range(len(ids) + 1) if not closed[g]]
                rows.append(ids if not places else ids[: places[0]] + [11, 12] + ids[places[0] :])
            made = type(draft.select(torch.tensor([0]))).__mro__[1].from_lists(rows)  # Tokens
            ones = torch.ones(len(rows))
            sides.append(
                Translation(made.tokens[:, None], made.valid[:, None], ones[:, None], ones.long(), ones.bool())
            )
        return sides[0], sides[1]

    monkeypatch.setattr(model, "fill", fill)
    for size in (1, 2, 64):
        found = answers(
            model, pairs, gaps, decoding=Kermit.Decoding(), batches=BatchOptions(size), device=torch.device("cpu")
        )
        assert found == [[11, 12]] * 3


# --- the command ------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def runs(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("kermit", "vanilla"):
        assert command(*small, f"model={name}", f"run_dir={folder / name}") == 0
    return {name: folder / name for name in ("kermit", "vanilla")}


def test_one_command_prints_everything(runs: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "new" / "cloze.json"
    words = (f"run_dir={runs['kermit']}", "max_sentences=20", "examples=2", "device=cpu", "decoding.batch_size=7")
    capsys.readouterr()
    assert run(*words, f"output={output}") == 0
    told = capsys.readouterr().out
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [row["languages"] for row in report["translation"]] == ["en-de", "de-en"]
    assert report["num_sentences"] == 20
    assert "direction" not in report["decoding"] and report["decoding"]["end_penalty"] == 0.0
    for row in report["translation"]:
        assert 0 <= row["bleu"] <= 100 and row["passes"] >= 1
        assert f"{row['languages']}  BLEU {row['bleu']:.2f}  chrF {row['chrf']:.2f}" in told
        assert row["bleu_signature"] in told
    assert [(row["language"], row["side"]) for row in report["cloze"]] == [("de", "target"), ("en", "source")]
    for row in report["cloze"]:
        gaps = row["gaps"]
        assert len(gaps) == row["num_gaps"] == 20 - row["num_without_word"]
        assert all(gap["correct"] == (gap["word"] == gap["answer"]) for gap in gaps)
        assert row["num_correct"] == sum(gap["correct"] for gap in gaps)
        assert row["accuracy"] == row["num_correct"] / len(gaps)
        assert row["baseline_num_correct"] == sum(gap["word"] == row["baseline_word"] for gap in gaps)
        assert all(gap["answer"] and "___" in gap["sentence"] for gap in gaps)
        assert f"always '{row['baseline_word']}'" in told
    assert told.count("answer  '") == 4
    again = cloze(ClozeConfig(run_dir=str(runs["kermit"]), max_sentences=20))  # another batch size
    assert [row["gaps"] for row in again["cloze"]] == [row["gaps"] for row in report["cloze"]]
    assert describe(again, examples=0).count("\n") == 6


REFUSALS = {
    "another method": (["run_dir=VANILLA"], "a Vanilla model; both directions and gaps need KERMIT"),
    "no run": (["run_dir=/nowhere"], "/nowhere: not a run folder"),
    "direction": (["decoding.direction=backward"], "decoding.direction=backward: has no effect, both are translated"),
    "candidates": (["decoding.num_candidates=3"], "decoding.num_candidates=3: has no effect, the first is the answer"),
    "unknown": (["decoding.beam_size=3"], "decoding.beam_size=3: a Kermit checkpoint"),
    "split": (["split=dev"], "split=dev: allowed are test, valid, train"),
    "typo": (["sed=3"], "sed: no such option, did you mean 'seed'?"),
    "tokenizer": (["data.tokenizer.kind=bpe"], "data.tokenizer.kind=bpe: the tokenizer is the run's own"),
    "output": (["output=RUN"], "output="),
    "few": (["max_sentences=0"], "max_sentences=0: must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str, runs: dict[str, Path], capsys: Any) -> None:
    words, message = REFUSALS[case]
    filled = [w.replace("VANILLA", str(runs["vanilla"])).replace("RUN", str(runs["kermit"])) for w in words]
    capsys.readouterr()
    assert run(f"run_dir={runs['kermit']}", "device=cpu", *filled) == 2
    told = capsys.readouterr().err
    assert told.startswith("nat-cloze: ") and message in told and told.count("\n") == 1


def test_what_cannot_be_measured_is_said(runs: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    text = tmp_path / "numbers.tsv"
    text.write_text("1 2\t3 4\n5\t6\n", encoding="utf-8")
    columns = ["data.columns=[en,de]", "device=cpu"]
    capsys.readouterr()
    assert run(f"run_dir={runs['kermit']}", f"data.test={text}", *columns) == 2
    assert "split test: there is no de word in it" in capsys.readouterr().err
    assert run(f"run_dir={runs['kermit']}", f"data.train={text}", *columns) == 2
    assert "split train: there is no word in it" in capsys.readouterr().err
