"""nat-decode, as a user runs it, on tiny trained runs."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sacrebleu
import torch

from nat.cli.decode import main
from nat.decoding.candidates import Candidates, Choice
from nat.decoding.history import read_history
from nat.decoding.translator import load
from nat.errors import ConfigError
from nat.evaluation import decode as work
from nat.evaluation import results
from nat.evaluation.results import Translations
from nat.models.autoregressive import Autoregressive
from nat.models.ctc import CTC

SOURCES = [
    "Click OK.",
    "",
    "Opens the dialog.",
    "   ",
    "Choose the menu item to insert a new table.",
    "Open the selected help page",
    "",
    "Page",
]
REFERENCES = [
    "Klicken Sie auf OK.",
    "",
    "Öffnet den Dialog.",
    "",
    "Wählen Sie den Eintrag.",
    "Die Hilfe öffnen",
    "",
    "Seite",
]
FILLED = [bool(source.strip()) for source in SOURCES]
Run = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """source.txt, reference.txt."""
    (tmp_path / "source.txt").write_text("\n".join(SOURCES) + "\n", encoding="utf-8")
    (tmp_path / "reference.txt").write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def decode(tiny_runs: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """nat-decode of the CTC run in `folder`, without speed: its exit code."""
    monkeypatch.chdir(folder)

    def run(*arguments: str, model: str = "ctc") -> int:
        given = {argument.split("=")[0] for argument in arguments}
        usual = {"run_dir": tiny_runs[model], "speed": "false", "device": "cpu"}
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *(f"{name}={value}" for name, value in usual.items() if name not in given)])
        return int(stop.value.code or 0)

    return run


def lines_of(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(path)]


def report_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


# --- what comes out --------------------------------------------------------------------------------


def test_a_split_is_scored_as_sacrebleu_scores_the_files(
    decode: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decode("output=out.txt", "jsonl=out.jsonl", "ter=true", "data.max_words=4") == 0
    outputs, rows, report = (
        lines_of(folder / "out.txt"),
        rows_of(folder / "out.jsonl"),
        report_of(folder / "out.txt.json"),
    )
    references = [row["reference"] for row in rows]
    assert outputs == [row["translation"] for row in rows]
    assert report["bleu"] == sacrebleu.corpus_bleu(outputs, [references]).score
    assert report["chrf"] == sacrebleu.corpus_chrf(outputs, [references]).score
    assert report["ter"] == sacrebleu.corpus_ter(outputs, [references]).score
    assert report["num_sentences"] == len(outputs) > 20
    assert report["num_sentences"] + report["num_dropped"] == 1088
    assert report["dropped_reasons"]["more than 4 words"]["pairs"] == report["num_dropped"]
    same = [output == reference for output, reference in zip(outputs, references, strict=True)]
    assert report["exact_match"] == sum(same) / len(same)
    copied = [word in row["source"].split() for row in rows for word in row["translation"].split()]
    assert report["copied_rate"] == sum(copied) / len(copied) > 0
    assert (report["num_5plus_words"], report["bleu_5plus_words"]) == (0, None)
    assert (report["passes"], report["model"], report["decoding"]["beam_size"]) == (1.0, "CTC", 1)
    shown = capsys.readouterr().out
    for part in (report["bleu_signature"], report["chrf_signature"], f"BLEU {report['bleu']:.2f}", "left out"):
        assert part in shown


def test_the_beginnings_of_sources_are_counted(decode: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = folder / "cut.tsv"
    texts.write_text("en\tde\nHelp page here\tHilfe\nPage\tSeite\n", encoding="utf-8")
    given = ("output=out.txt", "jsonl=out.jsonl", f"data.test={texts}", "data.columns=null", "data.source_words=2")
    assert decode(*given) == 0
    assert [row["source"] for row in rows_of(folder / "out.jsonl")] == ["Help page", "Page"]
    assert report_of(folder / "out.txt.json")["num_cut_sources"] == 1
    assert "sources cut to data.source_words: 1" in capsys.readouterr().out


def test_the_split_is_the_one_asked_for(decode: Run, folder: Path) -> None:
    texts = folder / "mine.tsv"
    texts.write_text("de\ten\nHilfe\tHelp\nSeite\tPage\n", encoding="utf-8")
    assert decode("output=out.txt", "jsonl=out.jsonl", "split=valid", f"data.valid={texts}", "data.columns=null") == 0
    assert [row["source"] for row in rows_of(folder / "out.jsonl")] == ["Help", "Page"]
    assert [row["line"] for row in rows_of(folder / "out.jsonl")] == [2, 3]
    assert report_of(folder / "out.txt.json")["text"] == "split valid"


def test_another_corpus_with_the_tokenizer_of_the_run(decode: Run, folder: Path) -> None:
    assert decode("output=out.txt", "jsonl=out.jsonl", "data=lohelp4", "data.target=fr", "data.max_words=2") == 0
    rows = rows_of(folder / "out.jsonl")
    assert len(rows) == report_of(folder / "out.txt.json")["num_sentences"] > 5
    assert any(accent in row["reference"] for row in rows for accent in "éèà")


def test_longer_sources_have_scores_of_their_own(decode: Run, folder: Path) -> None:
    assert decode("source=source.txt", "reference=reference.txt", "output=out.txt") == 0
    report, outputs = report_of(folder / "out.txt.json"), lines_of(folder / "out.txt")
    assert [len(source.split()) for source in SOURCES[4:6]] == [9, 5]
    assert report["num_5plus_words"] == 2
    assert report["bleu_5plus_words"] == sacrebleu.corpus_bleu(outputs[4:6], [REFERENCES[4:6]]).score
    assert report["chrf_5plus_words"] == sacrebleu.corpus_chrf(outputs[4:6], [REFERENCES[4:6]]).score
    assert report["bleu"] == sacrebleu.corpus_bleu(outputs, [REFERENCES]).score


@pytest.mark.parametrize("model", ["ctc", "autoregressive"])
def test_output_is_in_input_order_at_every_batch_size(
    decode: Run, folder: Path, tiny_runs: dict[str, Path], model: str
) -> None:
    alone = [load(tiny_runs[model], device="cpu").translate([source])[0] for source in SOURCES]
    for size in (1, 7, 64):
        assert decode("source=source.txt", f"output={size}.txt", f"decoding.batch_size={size}", model=model) == 0
        assert lines_of(folder / f"{size}.txt") == alone
    assert [bool(line) for line, filled in zip(alone, FILLED, strict=True) if not filled] == [False] * 3
    report = report_of(folder / "7.txt.json")
    assert (report["num_sentences"], report["num_empty"], report["batch_size"]) == (8, 3, 7)
    assert report["bleu"] is None


def test_precision_and_tokens_of_a_batch(decode: Run, folder: Path, tiny_runs: dict[str, Path]) -> None:
    given = ["source=source.txt", "output=out.txt", "decoding.precision=bf16", "decoding.max_tokens=20"]
    assert decode(*given) == 0
    report = report_of(folder / "out.txt.json")
    assert (report["precision"], report["max_tokens"], report["batch_size"]) == ("bf16", 20, 64)
    assert lines_of(folder / "out.txt") == load(tiny_runs["ctc"], device="cpu", precision="bf16").translate(SOURCES)


@pytest.mark.parametrize("text", ["", "\n", "\n\n", "Help", "Help\n\n", "\ufeffHelp\r\nPage\r\n"])
def test_as_many_lines_as_came_in(decode: Run, folder: Path, tiny_runs: dict[str, Path], text: str) -> None:
    (folder / "some.txt").write_bytes(text.encode())
    assert decode("source=some.txt", "output=out.txt", "speed=true") == 0
    expected = text.removeprefix("\ufeff").replace("\r", "").removesuffix("\n").split("\n") if text else []
    translations = load(tiny_runs["ctc"], device="cpu").translate(expected)
    assert (folder / "out.txt").read_text(encoding="utf-8") == "".join(f"{line}\n" for line in translations)
    assert not any(line for line, source in zip(translations, expected, strict=True) if not source)


def test_candidates_are_written(decode: Run, folder: Path) -> None:
    options = (
        "decoding.beam_size=4",
        "decoding.num_candidates=3",
        "nbest=nbest.txt",
        "jsonl=out.jsonl",
        "output=out.txt",
    )
    assert decode("source=source.txt", *options) == 0
    rows, outputs = rows_of(folder / "out.jsonl"), lines_of(folder / "out.txt")
    assert [row["index"] for row in rows] == list(range(len(SOURCES)))
    assert [row["source"] for row in rows] == SOURCES
    assert [row["translation"] for row in rows] == outputs == [row["nbest"][0]["text"] for row in rows]
    assert [row["passes"] for row in rows] == [int(filled) for filled in FILLED]
    assert [len(row["nbest"]) for row in rows] == [3 if filled else 1 for filled in FILLED]
    assert not any("reference" in row for row in rows)
    for row in rows:
        scores = [candidate["score"] for candidate in row["nbest"]]
        assert scores == sorted(scores, reverse=True)
        assert row["score"] == scores[0]
    expected = [f"{row['index']} ||| {item['text']} ||| {item['score']:.4f}" for row in rows for item in row["nbest"]]
    assert [line.rpartition(" ||| ")[0] for line in lines_of(folder / "nbest.txt")] == list(
        dict.fromkeys(line.rpartition(" ||| ")[0] for line in expected)
    )
    assert set(lines_of(folder / "nbest.txt")) <= set(expected)


def test_an_nbest_list_has_different_texts_and_four_fields() -> None:
    """As its readers expect: the first score of texts that are equal, and no separator within a text."""
    candidates = Candidates(["a", "b ||| c", "a"], [[8], [9], [8, 8]], [-1.0, -2.0, -0.5], 1, False)
    assert work.nbest_lines(Translations([candidates], 0.0)) == [
        "0 ||| a ||| -1.0000\n",
        "0 ||| b &#124;&#124;&#124; c ||| -2.0000\n",
    ]


def test_sentences_at_the_length_limit_are_counted(decode: Run, folder: Path) -> None:
    limit = ("decoding.max_length_factor=0", "decoding.max_length_offset=1")
    options = ("source=source.txt", "output=out.txt", "jsonl=out.jsonl", *limit)
    assert decode(*options, model="autoregressive") == 0
    truncated = [row["truncated"] for row in rows_of(folder / "out.jsonl")]
    assert report_of(folder / "out.txt.json")["num_truncated"] == sum(truncated) > 0


def test_speed_is_reported_or_null(decode: Run, folder: Path) -> None:
    names = ("ms_per_sentence_p50", "ms_per_sentence_p95", "sentences_per_second")
    assert decode("source=source.txt", "output=a.txt", "speed=true", "speed_sentences=2") == 0
    assert decode("source=source.txt", "output=b.txt") == 0
    with_speed, without = report_of(folder / "a.txt.json"), report_of(folder / "b.txt.json")
    assert all(with_speed[name] > 0 for name in names)
    assert with_speed["num_timed_alone"] == 2
    assert all(without[name] is None for name in names)


def test_provenance(decode: Run, folder: Path, tiny_runs: dict[str, Path]) -> None:
    weights = tiny_runs["ctc"] / "model.safetensors"
    assert decode("source=source.txt", "output=a.txt", "num_threads=1") == 0
    assert decode("source=source.txt", "output=b.txt", f"weights={weights}") == 0
    report = report_of(folder / "a.txt.json")
    assert report["weights"] == json.loads((tiny_runs["ctc"] / "run.json").read_text())["weights"]
    assert report_of(folder / "b.txt.json")["weights"] == str(weights)
    assert (report["run_dir"], report["device"], report["num_threads"]) == (str(tiny_runs["ctc"]), "cpu", 1)
    assert {"nat", "torch", "sacrebleu"} <= set(report["versions"])
    assert report["date"].startswith("20")


def test_standard_input_to_standard_output(
    decode: Run, tiny_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Help\n\nPage")))
    assert decode("source=-") == 0
    out, err = capsys.readouterr()
    expected = load(tiny_runs["ctc"], device="cpu").translate(["Help", "", "Page"])
    assert out == "".join(f"{line}\n" for line in expected)
    assert "standard input" in err


# --- the teacher -----------------------------------------------------------------------------------


def test_the_teacher_chooses(decode: Run, folder: Path, tiny_runs: dict[str, Path]) -> None:
    teacher = load(tiny_runs["autoregressive"], device="cpu")
    options = ("decoding.beam_size=4", "decoding.num_candidates=4", f"teacher={teacher.folder}", "jsonl=out.jsonl")
    assert decode("output=out.txt", "data.max_words=3", "decoding.batch_size=3", *options) == 0
    rows, report = rows_of(folder / "out.jsonl"), report_of(folder / "out.txt.json")
    differ = 0
    for row in rows:
        texts = [candidate["text"] for candidate in row["nbest"]]
        scores = [candidate["teacher_score"] for candidate in row["nbest"]]
        best = scores.index(max(scores))
        differ += best > 0
        assert (row["translation"], row["teacher_score"]) == (texts[best], scores[best])
        assert row["score"] == row["nbest"][best]["score"]
    assert lines_of(folder / "out.txt") == [row["translation"] for row in rows]
    assert report["num_choice_differs"] == differ > 0
    assert (report["choice"], report["teacher"]) == ("teacher", str(teacher.folder))
    own = teacher.score([row["source"] for row in rows], [row["translation"] for row in rows])
    assert [row["teacher_score"] for row in rows] == pytest.approx(own, rel=1e-4)
    assert report["teacher_score"] == pytest.approx(sum(own) / len(own), rel=1e-4)


BEAM = ("decoding.beam_size=4", "decoding.num_candidates=4")


@pytest.mark.parametrize("choice", ["first", "own", "mbr_chrf", "mbr_bleu"])
def test_other_choices_and_what_is_said_of_them(
    decode: Run, folder: Path, tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str], choice: str
) -> None:
    given = ("data.max_words=3", "output=out.txt", "jsonl=out.jsonl", f"choose={choice}", *BEAM)
    assert decode(*given, f"teacher={tiny_runs['autoregressive']}") == 0  # which has no say
    rows, report = rows_of(folder / "out.jsonl"), report_of(folder / "out.txt.json")
    for row in rows:
        values = {"own": "mean_score", "first": "score"}.get(choice, "utility")
        best = max(row["nbest"], key=lambda candidate: candidate[values])
        assert row["translation"] == row["nbest"][row["chosen"]]["text"] == best["text"]
        assert row["teacher_score"] == row["nbest"][row["chosen"]]["teacher_score"]
        for candidate in row["nbest"]:
            assert candidate["mean_score"] == candidate["score"] / max(1, len(candidate["tokens"]))
            assert ("utility" in candidate) == choice.startswith("mbr")
    differ = sum(row["translation"] != row["nbest"][0]["text"] for row in rows)
    assert report["choice"] == choice
    assert report["num_choice_differs"] == differ
    assert (differ > 0) == (choice != "first")
    assert report["teacher_score"] == pytest.approx(sum(row["teacher_score"] for row in rows) / len(rows))
    assert f"choice: {choice}, not the first one {differ} times; the best choice" in capsys.readouterr().out


def test_the_oracle_is_the_best_candidate_by_its_reference(decode: Run, folder: Path) -> None:
    assert decode("data.max_words=3", "output=out.txt", "jsonl=out.jsonl", *BEAM) == 0
    rows, report = rows_of(folder / "out.jsonl"), report_of(folder / "out.txt.json")
    references = [row["reference"] for row in rows]

    def oracle(metric: Callable[..., Any], **options: Any) -> list[str]:
        best = []
        for row in rows:
            texts = [candidate["text"] for candidate in row["nbest"]]
            values = [metric(text, [row["reference"]], **options).score for text in texts]
            best.append(texts[values.index(max(values))])
        return best

    with_bleu = oracle(sacrebleu.sentence_bleu, use_effective_order=True)
    assert report["oracle_bleu"] == sacrebleu.corpus_bleu(with_bleu, [references]).score >= report["bleu"]
    with_chrf = oracle(sacrebleu.sentence_chrf)
    assert report["oracle_chrf"] == sacrebleu.corpus_chrf(with_chrf, [references]).score > report["chrf"]
    assert report["num_candidates"] == sum(len(row["nbest"]) for row in rows) / len(rows)
    assert decode("source=source.txt", "output=b.txt", *BEAM) == 0
    assert report_of(folder / "b.txt.json")["oracle_bleu"] is None


def test_the_choice_from_python(tiny_runs: dict[str, Path]) -> None:
    student, teacher = (load(tiny_runs[name], device="cpu") for name in ("ctc", "autoregressive"))
    beam = {"beam_size": 4, "num_candidates": 4}
    found = student.candidates(SOURCES, choose="teacher", teacher=teacher, **beam)
    assert [item.filled for item in found] == FILLED
    for item, source in zip(found, SOURCES, strict=True):
        if item.filled:
            scores = teacher.score([source] * len(item.texts), item.texts)
            assert item.teacher_scores == pytest.approx(scores, rel=1e-4)
            assert scores[item.chosen] == pytest.approx(max(scores), rel=1e-4)
    chosen = [item.best for item in found]
    assert student.translate(SOURCES, teacher=teacher, **beam) == chosen
    assert student.translate(SOURCES, **beam) == [item.texts[0] for item in found]
    assert [item.chosen for item in student.candidates(SOURCES, choose=Choice.OWN, **beam)] != [0] * len(SOURCES)
    for options, part in (
        ({"choose": "best"}, "choose=best: allowed are first, own"),
        ({"choose": "teacher", **beam}, "choose=teacher: needs a model that scores"),
        ({"choose": "own"}, "choose=own: has no effect with num_candidates=1"),
        ({"choose": "own", "teacher": teacher, **beam}, "teacher: has no effect with choose=own"),
        ({"teacher": teacher}, "teacher: has no effect with choose=first and num_candidates=1"),
    ):
        with pytest.raises(ConfigError, match=f"^{part}"):
            student.translate(SOURCES, **options)  # type: ignore[arg-type]


def test_more_samples_are_never_worse_under_the_teacher(tiny_runs: dict[str, Path]) -> None:
    """Noisy parallel decoding, with samples as the noise."""
    student, teacher = (load(tiny_runs[name], device="cpu") for name in ("ctc", "autoregressive"))
    for model in (student, teacher):
        before = [-torch.inf] * sum(FILLED)
        for number in (2, 3, 6):
            found = model.candidates(SOURCES, teacher=teacher, temperature=2.0, num_candidates=number, batch_size=3)
            assert [len(item.texts) for item in found] == [number if filled else 1 for filled in FILLED]
            best = [max(item.teacher_scores or [None]) for item in found if item.filled]  # type: ignore[type-var]
            assert all(now >= then - 1e-4 for now, then in zip(best, before, strict=True))  # type: ignore[operator]
            before = best  # type: ignore[assignment]
        assert any(item.differs for item in found)


def test_samples_in_a_file(decode: Run, folder: Path) -> None:
    options = ("source=source.txt", "decoding.temperature=2.0", "decoding.num_candidates=4", "choose=mbr_chrf")
    for name, seed, size in (("a", 1, 64), ("b", 1, 2), ("c", 5, 64)):
        given = (f"decoding.seed={seed}", f"decoding.batch_size={size}", f"nbest={name}.nbest", f"output={name}.txt")
        assert decode(*options, *given) == 0
    a, b, c = ([line.split(" ||| ")[1] for line in lines_of(folder / f"{name}.nbest")] for name in "abc")
    assert len(a) > len(SOURCES)
    assert a == b != c
    assert report_of(folder / "a.txt.json")["num_candidates"] == 4
    assert report_of(folder / "c.txt.json")["decoding"]["seed"] == 5


def test_text_too_long_for_a_teacher(
    decode: Run, folder: Path, tiny_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    teacher = tiny_runs["autoregressive"]
    monkeypatch.setattr(Autoregressive, "max_source_length", 12)
    assert decode("source=source.txt", "output=out.txt", f"teacher={teacher}") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"nat-decode: teacher={teacher}: source.txt, line 5: ")
    assert err.endswith(f"tokens, but {teacher} takes at most 12 (positions.max_length)\n")
    assert not list(folder.glob("out*"))
    monkeypatch.setattr(Autoregressive, "max_target_length", 11)
    scores = load(teacher, device="cpu").score(["Page", "Page"], ["Seite", "Seite " * 30])
    assert [score > -torch.inf for score in scores] == [True, False]


def test_without_candidates_the_teacher_only_scores(decode: Run, folder: Path, tiny_runs: dict[str, Path]) -> None:
    assert decode("source=source.txt", "output=a.txt") == 0
    assert decode("source=source.txt", "output=b.txt", f"teacher={tiny_runs['autoregressive']}", "jsonl=b.jsonl") == 0
    assert lines_of(folder / "a.txt") == lines_of(folder / "b.txt")
    report = report_of(folder / "b.txt.json")
    assert report["teacher_score"] < 0
    assert (report["choice"], report["num_candidates"], report["num_choice_differs"]) == ("first", 1.0, 0)
    assert (report["oracle_bleu"], report["oracle_chrf"]) == (None, None)
    assert report["num_unscored"] == 3
    assert [row["teacher_score"] is not None for row in rows_of(folder / "b.jsonl")] == FILLED


def test_a_teacher_that_cannot_score_is_refused(
    decode: Run, folder: Path, tiny_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def score(model: CTC, batch: object) -> None:
        raise ConfigError("CTC cannot score given targets")

    monkeypatch.setattr(CTC, "score", score)
    assert decode("source=source.txt", "output=out.txt", f"teacher={tiny_runs['ctc']}") == 2
    assert f"teacher={tiny_runs['ctc']}: CTC cannot score" in capsys.readouterr().err
    assert not list(folder.glob("out*"))


def test_comet_is_reported(
    decode: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Metric(SimpleNamespace):
        def predict(self, samples: list[dict[str, str]], **options: Any) -> SimpleNamespace:
            assert [(sample["src"], sample["ref"]) for sample in samples] == list(zip(SOURCES, REFERENCES, strict=True))
            assert (
                "\n".join(sample["mt"] for sample in samples) == (folder / "out.txt").read_text(encoding="utf-8")[:-1]
            )
            return SimpleNamespace(system_score=0.81254)

    fake = SimpleNamespace(download_model=str, load_from_checkpoint=lambda path: Metric(path=path))
    monkeypatch.setitem(sys.modules, "comet", fake)
    given = ("source=source.txt", "reference=reference.txt", "output=out.txt")
    assert decode(*given) == 0
    assert "comet" not in report_of(folder / "out.txt.json")
    assert decode(*given, "comet=some/model") == 0
    report = report_of(folder / "out.txt.json")
    assert (report["comet"], report["comet_model"]) == (0.81254, "some/model")
    assert "COMET 0.8125  (some/model)\n" in capsys.readouterr().out


def test_the_same_command_again_replaces_its_files(decode: Run, folder: Path) -> None:
    given = ("source=source.txt", "output=out.txt", "jsonl=out.jsonl", "nbest=out.nbest", "history=out.history")
    assert decode(*given) == 0
    before = {path.name: path.read_bytes() for path in folder.glob("out*") if path.suffix != ".json"}
    assert len(before) == 4
    assert decode(*given) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("out*") if path.suffix != ".json"} == before


def test_a_file_of_the_user_is_replaced_when_told(
    decode: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out.txt").write_text("my thesis\n")
    assert decode("source=source.txt", "output=out.txt") == 2
    assert "output=out.txt: is there already" in capsys.readouterr().err
    assert (folder / "out.txt").read_text() == "my thesis\n"
    assert decode("source=source.txt", "output=out.txt", "overwrite=true") == 0
    assert len(lines_of(folder / "out.txt")) == len(SOURCES)


def test_devices_take_text_and_get_no_report(decode: Run, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert decode("source=source.txt", "output=/dev/stdout", "jsonl=/dev/null") == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == len(SOURCES)
    assert "sentences 8: empty 3" in err
    assert not Path("/dev/stdout.json").exists()


# --- refusals --------------------------------------------------------------------------------------


def test_comet_is_missing(
    decode: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "comet", None)
    assert decode("source=source.txt", "reference=reference.txt", "output=out.txt", "comet=some/model") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("nat-decode: comet=some/model: it cannot be imported")
    assert "pip install 'nat-translation[comet]'" in err
    assert not (folder / "out.txt").exists()


REFUSALS = {
    "no run": (["run_dir=nowhere"], ["nowhere", "not a run folder"]),
    "run missing": (["run_dir=???"], ["run_dir", "a value is needed"]),
    "no source": (["source=nowhere.txt"], ["nowhere.txt", "no such file"]),
    "source is a folder": (["source=."], [".", "folder"]),
    "not UTF-8": (["source=bad.txt"], ["bad.txt line 2", "not UTF-8"]),
    "reference not UTF-8": (["source=source.txt", "reference=bad.txt"], ["bad.txt line 2", "not UTF-8"]),
    "line counts": (["source=source.txt", "reference=three.txt"], ["source.txt has 8", "three.txt has 3"]),
    "reference alone": (["reference=three.txt"], ["reference=three.txt", "source=FILE"]),
    "source and split": (["source=source.txt", "split=test"], ["source=source.txt", "split=test"]),
    "data without effect": (["source=source.txt", "data.max_words=3"], ["data.max_words", "no effect"]),
    "ter without reference": (["source=source.txt", "ter=true"], ["ter=true", "reference"]),
    "passes of CTC": (
        ["decoding.max_passes=10"],
        ["decoding.max_passes=10", "CTC", "beam_size, history, language_model"],
    ),
    "num_candidates": (["decoding.num_candidates=5"], ["num_candidates=5", "beam_size=1"]),
    "samples of a beam": (
        ["decoding.temperature=1.0", "decoding.beam_size=4"],
        ["beam_size=4: has no effect with temperature"],
    ),
    "seed of nothing": (["decoding.seed=7"], ["seed=7: has no effect without temperature"]),
    "temperature": (["decoding.temperature=0"], ["decoding.temperature=0", "must be more than 0"]),
    "batch size": (["decoding.batch_size=0"], ["decoding.batch_size=0", "at least 1"]),
    "batch size's type": (["decoding.batch_size=many"], ["decoding.batch_size=many", "whole number"]),
    "split": (["split=tset"], ["split=tset", "test, valid, train"]),
    "typo": (["spilt=test"], ["spilt", "did you mean 'split'"]),
    "data typo": (["data.max_wrods=3"], ["data.max_wrods", "did you mean 'max_words'"]),
    "tokenizer": (["data.tokenizer.kind=bpe"], ["data.tokenizer.kind=bpe", "the run's own"]),
    "split without text": (["data.test=null"], ["data.test"]),
    "data file": (["data.test=nowhere.tsv"], ["nowhere.tsv", "no such file"]),
    "device": (["device=tpu"], ["device=tpu", "auto, cpu, cuda"]),
    "threads": (["num_threads=0"], ["num_threads=0", "at least 1"]),
    "speed sentences": (["speed_sentences=0"], ["speed_sentences=0", "at least 1"]),
    "weights": (["weights=nowhere.safetensors"], ["nowhere.safetensors", "no such"]),
    "damaged weights": (["weights=bad.txt"], ["bad.txt", "damaged"]),
    "choice": (["choose=best"], ["choose=best", "first, own, teacher, mbr_chrf, mbr_bleu"]),
    "choice of a teacher that is not given": (
        ["choose=teacher", *BEAM],
        ["choose=teacher: needs", "teacher=RUN_DIR"],
    ),
    "own choice of one": (["choose=own"], ["choose=own", "num_candidates=1"]),
    "minimum Bayes risk of one": (["choose=mbr_bleu"], ["choose=mbr_bleu", "num_candidates=1"]),
    "teacher's choice of one": (["choose=teacher", "teacher=nowhere"], ["choose=teacher", "num_candidates=1"]),
    "teacher": (["teacher=nowhere"], ["nowhere", "not a run folder"]),
    "output below a file": (["output=three.txt/out.txt"], ["output=three.txt/out.txt", "cannot be written"]),
    "output is a folder": (["output=sub"], ["output=sub", "no ordinary file"]),
    "output is the source": (["source=source.txt", "output=./source.txt"], ["output=", "source.txt", "an input"]),
    "two outputs in one": (["output=out.txt", "jsonl=out.txt.json"], ["out.txt.json", "jsonl"]),
}


@pytest.mark.parametrize("case", REFUSALS, ids=REFUSALS.keys())
def test_refusals(decode: Run, folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    (folder / "bad.txt").write_bytes(b"fine\n\xff\xfe\nfine\n")
    (folder / "three.txt").write_text("a\nb\nc\n", encoding="utf-8")
    (folder / "sub").mkdir()
    before = sorted(folder.rglob("*"))
    arguments, parts = REFUSALS[case]
    if not any(argument.startswith("output=") for argument in arguments):
        arguments = [*arguments, "output=out/out.txt"]
    assert decode(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("nat-decode: ")
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(decode: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert decode("source=source.txt", "device=cuda") == 2
    assert capsys.readouterr().err.startswith("nat-decode: device=cuda: ")


def test_standard_input_not_utf8(
    decode: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Help\nP\xe4ge\n")))
    assert decode("source=-") == 2
    assert "standard input line 2: not UTF-8 (byte 0xe4 at position 2)" in capsys.readouterr().err


def test_a_folder_without_permission(
    decode: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder / "closed")  # root may write everywhere
    assert decode("source=source.txt", "output=closed/out.txt") == 2
    assert "no permission" in capsys.readouterr().err


DAMAGES = {
    "config.yaml": (b"model: {}\n", "config.yaml"),
    "run.json": (b'{"weights": ', "run.json"),
    "model.safetensors": (b"\x00" * 100, "model.safetensors"),
    "tokenizer/tokenizer.json": (b"{}", "tokenizer.json"),
    "tokenizer/source.model": (b"", "source.model"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_runs(
    decode: Run, folder: Path, tiny_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], name: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(results, "translate_timed", None)  # known before any sentence is translated
    ignored = shutil.ignore_patterns("checkpoints", "best", "tensorboard")
    shutil.copytree(tiny_runs["ctc"], folder / "run", ignore=ignored)
    content, part = DAMAGES[name]
    (folder / "run" / name).write_bytes(content)
    assert decode("run_dir=run", "source=source.txt", "output=out.txt") == 2
    err = capsys.readouterr().err
    assert part in err
    assert err.count("\n") == 1
    assert not list(folder.glob("out*"))


def test_an_interrupt_leaves_nothing(
    decode: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "translate_timed", interrupted)
    assert decode("source=source.txt", "output=out.txt") == 130
    assert capsys.readouterr().err == "nat-decode: stopped\n"
    assert not list(folder.glob("*out*"))


def test_as_a_process(folder: Path, tiny_runs: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "nat.cli.decode", f"run_dir={tiny_runs['ctc']}", "source=-", "speed_sentences=1"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(Path(work.__file__).parents[2])}
    done = subprocess.run(command, input=b"Opens the dialog.\n\n", capture_output=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    translation = load(tiny_runs["ctc"], device="cpu").translate(["Opens the dialog."])[0]
    assert done.stdout.decode() == f"{translation}\n\n"
    assert b"sentences 2: empty 1" in done.stderr


def test_the_history_of_every_translation(decode: Run, folder: Path) -> None:
    options = ("source=source.txt", "reference=reference.txt", "output=out.txt", *BEAM)
    assert decode(*options, "history=history.jsonl", "jsonl=out.jsonl") == 0
    translations = (folder / "out.txt").read_text(encoding="utf-8").split("\n")[:-1]
    found = read_history(folder / "history.jsonl")
    rows = rows_of(folder / "out.jsonl")
    assert [item.source for item in found] == SOURCES
    assert [item.reference for item in found] == REFERENCES
    assert [item.translation.text for item in found] == translations
    for item, row in zip(found, rows, strict=True):
        assert [candidate.score for candidate in item.candidates] == [round(each["score"], 4) for each in row["nbest"]]
        for candidate in item.candidates:
            assert len(candidate.passes) == item.num_passes == (1 if item.source.strip() else 0)
            for each in candidate.passes:  # the canvas of CTC, before it is collapsed
                runs = [token for token, _ in itertools.groupby(each.tokens)]
                assert [token for token in runs if token != "<blank>"] == candidate.tokens


def test_the_history_where_speed_is_measured_is_decoded_once_more(
    decode: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    real = CTC.decode
    monkeypatch.setattr(
        CTC,
        "decode",
        lambda self, source, *, decoding: (asked.append(decoding.history), real(self, source, decoding=decoding))[1],
    )
    assert decode("source=source.txt", "output=a.txt", "history=slow.jsonl", "speed_sentences=1", "speed=true") == 0
    assert asked == [False] * (len(asked) - 1) + [True]
    asked.clear()
    assert decode("source=source.txt", "output=b.txt", "history=quick.jsonl") == 0
    assert asked == [True]
    assert read_history(folder / "slow.jsonl") == read_history(folder / "quick.jsonl")
    assert decode("source=source.txt", "output=b.txt", "history=source.txt") == 2


def test_an_endless_line_is_refused_by_its_number(
    decode: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "translate_timed", None)  # known before any sentence is translated
    (folder / "long.en").write_text("Save it.\n" + "word " * 16000 + "\nClick OK.\n")
    assert decode("source=long.en", "output=out.txt") == 2
    err = capsys.readouterr().err
    assert err.startswith("nat-decode: long.en, line 2: ")
    assert "at most 1000 are translated" in err
    assert decode("source=source.txt", "output=out.txt", "max_source_tokens=1") == 2
    assert "source.txt, line 1: " in capsys.readouterr().err
    (folder / "long.tsv").write_text("en\tde\nHelp page\tHilfe\n" + "word " * 2000 + "\tb\n")
    assert decode("output=out.txt", f"data.test={folder}/long.tsv", "data.columns=null", "data.max_words=null") == 2
    assert "split test, line 3: " in capsys.readouterr().err


class Typed(io.RawIOBase):
    """Standard input of which each line comes when the one before it was answered."""

    def __init__(self, lines: list[bytes], answered: Callable[[], int]) -> None:
        self.lines, self.answered, self.number = lines, answered, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        assert self.answered() == self.number
        if self.number == len(self.lines):
            return 0
        line = self.lines[self.number]
        buffer[: len(line)] = line
        self.number += 1
        return len(line)


@pytest.mark.parametrize("options", [["interactive=true"], []])
def test_lines_are_answered_one_by_one(
    decode: Run, tiny_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes], options: list[str],
) -> None:  # fmt: skip
    written = b""

    def answered() -> int:
        nonlocal written
        written += capfdbinary.readouterr().out
        return written.count(b"\n")

    lines = [b"Opens the dialog.\n", b"\n", b"word " * 1500 + b"\n", b"Page\n"]
    stdin = io.TextIOWrapper(io.BufferedReader(Typed(lines, answered), buffer_size=8192))
    monkeypatch.setattr(stdin, "isatty", lambda: not options)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert decode("source=-", *options) == 0
    written += capfdbinary.readouterr().out
    first, last = load(tiny_runs["ctc"], device="cpu").translate(["Opens the dialog.", "Page"])
    assert written.decode().split("\n") == [first, "", "", last, ""]


@pytest.mark.parametrize(
    "option", ["source=source.txt", "output=out.txt", "reference=reference.txt", "jsonl=out.jsonl"]
)
def test_what_has_no_place_line_by_line(decode: Run, capsys: pytest.CaptureFixture[str], option: str) -> None:
    source = [] if option.startswith("source") else ["source=-"]
    assert decode(*source, option, "interactive=true") == 2
    assert "interactive=true" in capsys.readouterr().err
