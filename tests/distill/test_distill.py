"""Sequence-level distillation: complete, in corpus order, the same after any number of kills and on any ranks."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workers
from builders import distil, distilled_lines

import nat
from nat.data.lines import file_digest
from nat.data.vocabulary import Symbol
from nat.decoding.batched import Decoded
from nat.distill.job import DistillConfig, prepare_corpus
from nat.files import write_text
from nat.runs.lock import FolderLock

FAST = ["decoding.batch_size=16", "shard_size=25", "data.limit=150"]


@pytest.fixture(scope="module")
def distilled(tiny_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilled") / "whole"
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={folder}", *FAST) == 0
    return folder


def test_lines_are_the_teachers_translations_in_corpus_order(distilled: Path, tiny_runs: dict[str, Path]) -> None:
    lines = distilled_lines(distilled)
    numbers = [line["line"] for line in lines]
    assert len(lines) == 150
    assert numbers == sorted(set(numbers))
    teacher = nat.load(tiny_runs["autoregressive"])
    some = lines[::15]
    sources = [line["en"] for line in some]
    assert teacher.translate(sources, batch_size=3, allow_unknown=False) == [line["de"] for line in some]


def test_score_is_the_teachers(distilled: Path, tiny_runs: dict[str, Path]) -> None:
    # score() tokenises the text anew, so only those translations whose pieces come out the same can agree. It knows no
    # ban of <unk>, which shares out that token's probability: the score is a little higher.
    teacher = nat.load(tiny_runs["autoregressive"])
    lines = [line for line in distilled_lines(distilled)[:20] if line["de"] and not line.get("truncated")]
    forced = teacher.score([line["en"] for line in lines], [line["de"] for line in lines])
    gains = [line["score"] - score for line, score in zip(lines, forced, strict=True)]
    assert sum(-1e-3 < gain < 0.02 for gain in gains) >= 5


def test_manifest_tells_who_made_the_file_and_how(distilled: Path, tiny_runs: dict[str, Path]) -> None:
    manifest = json.loads((distilled / "manifest.json").read_text())
    teacher = tiny_runs["autoregressive"]
    assert manifest["teacher_weights_sha256"] == file_digest(teacher / "model.safetensors")
    assert manifest["corpus_sha256"] == file_digest(distilled / "train.jsonl")
    assert (manifest["engine"], manifest["precision"]) == ("torch", "fp32")
    assert manifest["decoding"]["beam_size"] == 1
    assert manifest["decoding"]["allow_unknown"] is False
    assert manifest["num_unknown"] == 0
    assert manifest["num_lines"] == 150
    assert manifest["pairs"]["kept"] == 150
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["bleu_signature"].startswith("nrefs:1")
    scores = [line["score"] for line in distilled_lines(distilled)]
    assert manifest["mean_score"] == pytest.approx(sum(scores) / len(scores))


def test_batches_and_shards_do_not_matter(distilled: Path, tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    options = ["decoding.batch_size=7", "shard_size=1000", "data.limit=150"]
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'other'}", *options) == 0
    first, second = distilled_lines(distilled), distilled_lines(tmp_path / "other")
    assert [(line["line"], line["de"]) for line in first] == [(line["line"], line["de"]) for line in second]


def test_beam_with_several_candidates(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    options = ["decoding.beam_size=3", "decoding.num_candidates=3", "data.limit=12"]
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", *options) == 0
    lines = distilled_lines(tmp_path / "d")
    assert [line["rank"] for line in lines] == [0, 1, 2] * 12


def test_killed_three_times_gives_the_same_bytes(distilled: Path, tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    arguments = [f"teacher={tiny_runs['autoregressive']}", f"output={folder}", *FAST]
    chance, parts = random.Random(5), []
    for _ in range(3):
        touches = chance.randint(16, 26)  # of the shards: two files each
        process = workers.start(
            workers.struck, arguments, str(tmp_path / "log"), folder / "parts", touches, module="nat.cli.distill"
        )
        assert workers.finish(process) == -signal.SIGKILL, (tmp_path / "log").read_text()
        parts.append(len(list(folder.glob("parts/000/shard-*.jsonl"))))
    assert parts[0] < parts[1] < parts[2]
    assert not (folder / "manifest.json").exists()
    assert distil(*arguments) == 0
    assert (folder / "train.jsonl").read_bytes() == (distilled / "train.jsonl").read_bytes()


def test_killed_while_joining(distilled: Path, tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "joining"
    arguments = [f"teacher={tiny_runs['autoregressive']}", f"output={folder}", *FAST]
    assert distil(*arguments) == 0
    (folder / "manifest.json").unlink()  # as if the kill had come between the corpus and its manifest
    (folder / "train.jsonl").write_text("half a li")
    assert distil(*arguments) == 0
    assert (folder / "train.jsonl").read_bytes() == (distilled / "train.jsonl").read_bytes()


Ranks = Callable[..., list[ForkServerProcess]]


@pytest.fixture
def start_ranks(tiny_runs: dict[str, Path], tmp_path: Path) -> Ranks:
    """Starts so many ranks of one distillation into tmp_path/ranks. struck: the main rank is killed as it touches the
    shards for this time."""
    arguments = [f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'ranks'}", "device=cpu", *FAST]

    def start(num_ranks: int, *, struck: int | None = None) -> list[ForkServerProcess]:
        port, log, options = workers.free_port(), str(tmp_path / "log"), {"module": "nat.cli.distill"}
        ranks = []
        for rank in range(num_ranks):
            environment = workers.rank_environment(rank, num_ranks, port)
            if rank == 0 and struck is not None:
                blow = (workers.struck, arguments, log, tmp_path / "ranks" / "parts", struck)
                ranks.append(workers.start(*blow, environment=environment, **options))
            else:
                ranks.append(workers.start(workers.command, arguments, log, environment, **options))
        return ranks

    return start


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_ranks_give_the_same_bytes(num_ranks: int, start_ranks: Ranks, distilled: Path, tmp_path: Path) -> None:
    codes = [workers.finish(rank) for rank in start_ranks(num_ranks)]
    assert codes == [0] * num_ranks, (tmp_path / "log").read_text()
    folder = tmp_path / "ranks"
    assert (folder / "train.jsonl").read_bytes() == (distilled / "train.jsonl").read_bytes()
    first, second = (json.loads((path / "manifest.json").read_text()) for path in (distilled, folder))
    assert second["num_ranks"] == num_ranks
    assert {key for key in first if first[key] != second[key]} <= {"num_ranks", "date", "seconds_of_last_run"}
    assert not (folder / "parts").exists()


@pytest.mark.slow
def test_ranks_that_were_killed_go_on_with_others(start_ranks: Ranks, distilled: Path, tmp_path: Path) -> None:
    first, second = start_ranks(2, struck=8)  # in its first shard, or as it closes where the other one made them all
    assert workers.finish(first) == -signal.SIGKILL, (tmp_path / "log").read_text()
    second.kill()
    second.join()
    folder = tmp_path / "ranks"
    assert (folder / "parts").is_dir()
    assert not (folder / "manifest.json").exists()
    assert [workers.finish(rank) for rank in start_ranks(4)] == [0] * 4, (tmp_path / "log").read_text()
    assert (folder / "train.jsonl").read_bytes() == (distilled / "train.jsonl").read_bytes()


def test_a_student_trains_on_it(
    distilled: Path, tiny_runs: dict[str, Path], tmp_path: Path, nat_train: Callable[..., int]
) -> None:
    teacher = tiny_runs["autoregressive"]
    code = nat_train(
        "experiment=tiny",
        "model=ctc",
        f"run_dir={tmp_path / 'student'}",
        f"data.train={distilled / 'train.jsonl'}",
        f"data.tokenizer.path={teacher / 'tokenizer'}",
        f"init_from={teacher}",
        "trainer.max_updates=5",
        "validation.max_sentences=4",
    )
    assert code == 0


def test_done_is_done(distilled: Path, tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = (distilled / "manifest.json").stat().st_mtime_ns
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={distilled}", *FAST) == 0
    assert (distilled / "manifest.json").stat().st_mtime_ns == before
    assert "150 lines" in capsys.readouterr().out


@pytest.fixture
def finished(distilled: Path, tmp_path: Path) -> Path:
    """A copy of the distilled folder, to be spoilt."""
    return Path(shutil.copytree(distilled, tmp_path / "finished"))


def test_a_corpus_that_was_cut_short_since_is_not_done(
    finished: Path, tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = finished / "train.jsonl"
    half = corpus.read_bytes()[:5000]
    corpus.write_bytes(half)
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={finished}", *FAST) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(
            f"{corpus}: was changed or cut short since it was made (its hash is not that of manifest.json); "
            "delete it to have it made anew"
        )
    )
    assert corpus.read_bytes() == half


def test_a_second_command_is_refused_and_a_corpus_that_was_deleted_is_made_anew(
    finished: Path, distilled: Path, tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "train.jsonl").unlink()
    lock = FolderLock(finished, "output")
    lock.acquire()
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={finished}", *FAST) == 2
    error = capsys.readouterr().err.strip()
    assert error.endswith(
        f"output={finished}: {lock.owner} is writing into it; wait for its end, or choose another folder"
    )
    lock.release()
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={finished}", *FAST) == 0
    assert (finished / "train.jsonl").read_bytes() == (distilled / "train.jsonl").read_bytes()
    assert not (finished / "lock").exists()


@pytest.mark.parametrize(("name", "content"), [("job.json", "[]"), ("manifest.json", "[]"), ("manifest.json", "{}")])
def test_damaged_files_of_a_distillation(
    name: str, content: str, finished: Path, tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / name).write_text(content)
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={finished}", *FAST) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert str(finished) in error


def test_a_damaged_shard_is_named(
    finished: Path, tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    part = finished / "parts" / "000" / "shard-000001.jsonl"
    part.parent.mkdir(parents=True)
    part.write_text('{"en": "a", "de"')
    (finished / "manifest.json").unlink()
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={finished}", *FAST) == 2
    assert f"{part} line 1: not a JSON object" in capsys.readouterr().err


def test_a_translation_with_unk_is_left_out_and_counted(
    tiny_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode, every = nat.Translator.decode, 4

    def with_unk(*arguments: Any, **options: Any) -> list[Decoded]:
        """Every fourth sentence's best translation holds an <unk>, its second one none."""
        translations = decode(*arguments, **options)
        return [one if number % every else spoilt(one) for number, one in enumerate(translations)]

    def spoilt(one: Decoded) -> Decoded:
        return replace(one, tokens=[[*one.tokens[0], int(Symbol.UNK)], *one.tokens[1:]])

    monkeypatch.setattr(nat.Translator, "decode", with_unk)
    options = ["data.limit=12", "decoding.beam_size=2", "decoding.num_candidates=2", "decoding.allow_unknown=true"]
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", *options) == 0
    assert "21 lines, " in (printed := capsys.readouterr().out)
    assert "3 left out for an <unk>" in printed
    lines = distilled_lines(tmp_path / "d")
    assert not any("⁇" in line["de"] for line in lines)
    assert sorted(line["rank"] for line in lines) == [0] * 9 + [1] * 12
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert (manifest["num_lines"], manifest["num_unknown"]) == (21, 3)
    assert manifest["mean_score"] == pytest.approx(np.mean([line["score"] for line in lines if line["rank"] == 0]))
    every = 1
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'none'}", *options) == 2
    assert "the teacher wrote <unk> in every translation, no line is left" in capsys.readouterr().err


def test_through_ctranslate2_in_int8(
    tiny_runs: dict[str, Path],
    distilled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The engine is named, another one is refused to go on, and a kill changes nothing."""
    pytest.importorskip("ctranslate2")
    engine = ["engine=ctranslate2", "decoding.precision=int8"]
    arguments = [f"teacher={tiny_runs['autoregressive']}", *FAST]
    assert distil(*arguments, *engine, f"output={tmp_path / 'whole'}") == 0
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert (manifest["engine"], manifest["precision"]) == ("ctranslate2", "int8")
    assert "ctranslate2" in manifest["versions"]
    lines, others = distilled_lines(tmp_path / "whole"), distilled_lines(distilled)
    assert sum(line["de"] == other["de"] for line, other in zip(lines, others, strict=True)) > 0.7 * len(lines)
    assert [line["score"] for line in lines] != [other["score"] for other in others]
    shards: list[Path] = []

    def killed(path: Path, text: str) -> None:
        shards.append(path)
        if len(shards) == 3:
            raise SystemExit(9)
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr("nat.distill.shards.write_text", killed)
        assert distil(*arguments, *engine, f"output={tmp_path / 'killed'}") == 9
    assert len(list((tmp_path / "killed" / "parts").rglob("*.jsonl"))) == 2
    assert distil(*arguments, f"output={tmp_path / 'killed'}") == 2
    assert "holds a distillation with other engine, precision; " in capsys.readouterr().err
    assert distil(*arguments, *engine, f"output={tmp_path / 'killed'}") == 0
    assert (tmp_path / "killed" / "train.jsonl").read_bytes() == (tmp_path / "whole" / "train.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("decoding.precision=bf16", "holds a distillation with other precision; "),
        ("decoding.precision=int8", "decoding.precision=int8: allowed are fp32, bf16, fp16, auto"),
        ("engine=tensorrt", "engine=tensorrt: allowed are torch, ctranslate2"),
        ("decoding.beam_size=2", "holds a distillation with other decoding"),
        ("decoding.max_passes=3", "decoding.max_passes=3: a Autoregressive checkpoint"),
        ("decoding.batch_size=0", "decoding.batch_size=0: must be at least 1"),
        ("split=dev", "split=dev: allowed are train, valid, test"),
        ("shard_sise=3", "shard_sise: no such option, did you mean 'shard_size'?"),
        ("data.limmit=3", "data.limmit: no such option, did you mean 'limit'?"),
        ("teacher=/nowhere", "/nowhere: not a run folder"),
    ],
)
def test_refusals(
    override: str, words: str, distilled: Path, tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in distilled.iterdir())
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={distilled}", *FAST, override) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert sorted((path.name, path.stat().st_mtime_ns) for path in distilled.iterdir()) == before


def test_a_column_of_nat_distill_cannot_be_the_target(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", "data.limit=3"]
    assert distil(*arguments, "data.target=score", "data.columns=[en,score]") == 2
    assert "data.target=score: this name is that of a column which nat-distill adds" in capsys.readouterr().err


def test_a_folder_of_other_things_is_refused(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path}", *FAST) == 2
    assert "is not empty and holds no distillation" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_truncated_teacher_is_refused(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_runs["autoregressive"], broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert distil(f"teacher={broken}", f"output={tmp_path / 'out'}", *FAST) == 2
    assert f"{weights}: damaged or truncated" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_the_corpus_that_are_not_given_are_the_teachers(tiny_runs: dict[str, Path]) -> None:
    teacher = nat.load(tiny_runs["autoregressive"])
    teacher.config["data"]["filters"]["max_tokens"] = 77
    config = DistillConfig(teacher="", output="", data={"filters": {"max_ratio": 5.0}})
    data, _ = prepare_corpus(config, teacher)
    assert (data.filters.max_tokens, data.filters.max_ratio) == (77, 5.0)


def test_a_source_that_the_teacher_cannot_read_is_left_out_and_counted(
    tiny_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = nat.load(tiny_runs["autoregressive"])
    monkeypatch.setattr(type(teacher.model), "max_source_length", property(lambda self: 9))
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", "data.limit=30") == 0
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    reason = "whose source is longer than the teacher reads, 9 tokens"
    long = manifest["pairs"]["reasons"][reason]["pairs"]
    assert long and manifest["num_lines"] == 30 - long
