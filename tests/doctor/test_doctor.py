"""nat-doctor: each planted fault, in a broken run of its own, is the one thing that is found; nothing in a healthy run.

The healthy run is a CTC student of a few updates, whose curves and decode are written by hand: those of a trained one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import command

import nat
from nat.cli.decode import main as nat_decode
from nat.cli.doctor import main
from nat.composition import compose
from nat.config import load_yaml, parse, save_yaml
from nat.data.batching import collate
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.doctor.command import CHECKS, DoctorConfig, describe, doctor, examine_facts
from nat.doctor.decodes import commonest, other_limits
from nat.doctor.facts import DecodeFacts, Facts, Origin, Overlap, RunFacts, TrainingText, Trial
from nat.doctor.finding import Severity
from nat.doctor.reading import needed_slots, read_training_text, source_lengths
from nat.evaluation.inputs import Split, read_corpus
from nat.files import read_json, write_json
from nat.training.record import flattened

pytestmark = pytest.mark.timeout(300)
UPDATES = 1500
CURVE = [(250, 14.0), (500, 24.3), (750, 30.1), (1000, 33.7), (1250, 35.9), (1500, 36.8)]
DECODE = {
    "model": "CTC", "text": "split test", "num_sentences": 120, "num_empty": 0, "num_empty_translations": 1,
    "num_truncated": 2, "passes": 1.0, "passes_by_length": [{"length": 9, "sentences": 120, "passes": 1.0}],
    "repetition_rate": 0.004, "unknown_rate": 0.0, "length_ratio": 0.92, "bleu": 32.8, "chrf": 60.1,
    "decoding": {"beam_size": 1, "num_candidates": 1, "length_bonus": None},
}  # fmt: skip


def pairs_of(split: str, count: int) -> list[tuple[str, str]]:
    """Short pairs of the embedded text."""
    lines = read_lines(embedded_directory() / "lohelp" / f"{split}.tsv.gz")
    pairs = [tuple(line.split("\t")) for line in lines]
    return [(s, t) for s, t in pairs if all(3 <= len(side.split()) <= 9 for side in (s, t))][:count]


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"en": s, "de": t}, ensure_ascii=False) + "\n" for s, t in pairs]
    path.write_text("".join(lines), encoding="utf-8")


def line_of(update: int, kind: str = "valid", **values: Any) -> str:
    return json.dumps({"kind": kind, "update": update, "tokens": 500 * update, **values}) + "\n"


def write_curve(run: Path, curve: list[tuple[int, float]], *, average: float | None = 35.0) -> None:
    """Validations of these BLEUs; the loss falls all the while."""
    lines = [line_of(update, bleu=bleu, loss=4.0 - update / 1000) for update, bleu in curve]
    lines += [line_of(curve[-1][0], "valid_average", bleu=average)] if average is not None and curve else []
    (run / "metrics.jsonl").write_text("".join(lines))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of text, a run and its decode. Copy it before breaking it."""
    folder = tmp_path_factory.mktemp("healthy")
    (folder / "distilled").mkdir()
    write_pairs(folder / "distilled" / "train.jsonl", pairs_of("train", 700))
    manifest = {"targets": "teacher", "teacher": "runs/teacher", "num_lines": 700, "num_truncated": 2, "num_empty": 1}
    write_json(folder / "distilled" / "manifest.json", manifest)
    for split in ("valid", "test"):
        write_pairs(folder / f"{split}.jsonl", pairs_of(split, 120))
    run = folder / "run"
    options = [
        "experiment=tiny", "model=ctc", f"run_dir={run}", "model.size={dim: 16, num_heads: 2, ffn_dim: 32}",
        f"data.train={folder}/distilled/train.jsonl", f"data.valid={folder}/valid.jsonl",
        f"data.test={folder}/test.jsonl", "data.max_words=null", "data.limit=null", "model.upsampling=3",
        "data.tokenizer={kind: bpe, vocabulary_size: 200}", "trainer.max_updates=2",
        "validation={every: 2, max_sentences: 2}",
    ]  # fmt: skip
    assert command(*options) == 0
    for name in ("checkpoints", "best", "tensorboard"):
        shutil.rmtree(run / name)
    change_config(run, {"trainer.max_updates": UPDATES, "schedule.warmup": 150, "validation.max_sentences": 100})
    change_json(run / "run.json", {"update": UPDATES, "tokens": 500 * UPDATES, "finished": True})
    write_curve(run, CURVE)
    write_json(folder / "out.json", DECODE | {"run_dir": "runs/run"})
    (folder / "out").write_text("".join(f"line {number // 2}\n" for number in range(120)))
    return folder


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Names of nat-train's options for CTC."""
    return {name for name, _ in flattened(compose("train", ["run_dir=unused", "model=ctc"]))}


def change_config(run: Path, changes: dict[str, Any]) -> None:
    config = load_yaml(run / "config.yaml")
    for name, value in changes.items():
        *path, last = name.split(".")
        node = config
        for part in path:
            node = node[part]
        assert last in node
        node[last] = value
    save_yaml(config, run / "config.yaml")


def change_json(path: Path, changes: dict[str, Any]) -> None:
    write_json(path, read_json(path) | changes)


def findings_of(folder: Path, **options: Any) -> dict[str, Any]:
    given = {"run_dir": str(folder / "run"), "decode": str(folder / "out.json"), "device": "cpu"} | options
    diagnosis, plain = doctor(parse(DoctorConfig, given))
    assert list(diagnosis.findings) == [found["check"] for found in plain["findings"]]
    return diagnosis.findings


# --- the faults: what breaks the run, and a part of what is said of it --------------------------------

Break = Callable[[Path], None]


def config(**changes: Any) -> Break:
    return lambda folder: change_config(folder / "run", {k.replace("__", "."): v for k, v in changes.items()})


def summary(**changes: Any) -> Break:
    return lambda folder: change_json(folder / "run" / "run.json", changes)


def decode(**changes: Any) -> Break:
    return lambda folder: change_json(folder / "out.json", changes)


def curve(*bleus: float, average: float | None = 5.0) -> Break:
    def write(folder: Path) -> None:
        updates = [UPDATES * (i + 1) // len(bleus) for i in range(len(bleus))]
        write_curve(folder / "run", list(zip(updates, bleus, strict=True)), average=average)

    return write


def training(change: Callable[[list[tuple[str, str]]], list[tuple[str, str]]]) -> Break:
    """Another training text, still with its manifest."""

    def write(folder: Path) -> None:
        shutil.copytree(folder / "distilled", folder / "other")
        write_pairs(folder / "other" / "train.jsonl", change(pairs_of("train", 700)))
        change_config(folder / "run", {"data.train": str(folder / "other" / "train.jsonl")})

    return write


def killed(folder: Path) -> None:
    summary(update=500, tokens=250_000, finished=False)(folder)
    write_curve(folder / "run", CURVE[:2], average=None)


def alone(folder: Path) -> None:
    config(trainer__average_best=False)(folder)
    write_curve(folder / "run", CURVE, average=None)


def original_targets(folder: Path) -> None:
    """A distilled folder whose targets are the corpus's, which is the embedded text."""
    changes = {"targets": "corpus", "data": {"train": "embedded:lohelp/train.tsv.gz"}}
    training(list)(folder)
    change_json(folder / "other" / "manifest.json", changes)


def several_translations(folder: Path) -> None:
    """No manifest tells, but thirty sources have two translations."""
    training(lambda pairs: pairs + [(s, pairs[i + 1][1]) for i, (s, _) in enumerate(pairs[:30])])(folder)
    (folder / "other" / "manifest.json").unlink()


def one_output(folder: Path) -> None:
    (folder / "out").write_text("Klicken Sie auf OK.\n" * 12 + "".join(f"{i}\n" for i in range(108)))


def learnt_by_heart(folder: Path) -> None:
    write_pairs(folder / "test.jsonl", [*pairs_of("test", 116), *pairs_of("train", 4)])


def long_targets(folder: Path) -> None:
    """Every tenth target five times, and filters that let it pass."""
    training(lambda pairs: [(s, " ".join([t] * (5 if i % 10 == 0 else 1))) for i, (s, t) in enumerate(pairs)])(folder)
    config(data__filters__max_ratio=20.0)(folder)


def shifted(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(s, " ".join([t] * 9) if i % 5 == 0 else t) for i, (s, t) in enumerate(pairs)]


FAULTS: dict[str, tuple[str, Break, str]] = {
    "tokens per update": ("few_tokens_per_update", summary(tokens=60 * UPDATES), "An update sees 60 target tokens"),
    "warm-up": ("never_warmed_up", config(schedule__warmup=1200), "80.0 % of the run: 1200 of 1500 updates"),
    "stopped early": ("still_improving", curve(3.0, 9.0, 15.0), "BLEU 9.0 at update 1000, 15.0 at 1500"),
    "overfitting": ("fell_after_best", curve(20.0, 30.0, 22.0), "from BLEU 30.0 at update 1000 to 22.0"),
    "skipped": ("many_skipped", summary(skipped=300), "300 of 1500 updates (20.0 %)"),
    "killed": ("not_finished", killed, "500 of 1500 updates"),
    "chosen by loss": ("chosen_by_loss", config(validation__metric="loss"), "its BLEU is 36.8, 0.0 below"),
    "one validation": ("few_validations", curve(36.8), "validated once"),
    "few sentences": ("few_validation_sentences", config(validation__max_sentences=32), "BLEU of 32 sentences"),
    "no average": ("single_checkpoint", alone, "trainer.average_best=false"),
    "memory": ("many_memory_splits", summary(memory_splits=400), "400 times in 1500 updates"),
    "raw text": ("not_distilled", original_targets, "embedded:lohelp/train.tsv.gz is the text that comes with nat"),
    "raw text without a manifest": (
        "not_distilled",
        several_translations,
        "sources that occur several times have different translations",
    ),
    "overlap": ("overlap", learnt_by_heart, "4 of the 120 of split test"),
    "canvas": ("short_canvas", long_targets, "they have no alignment"),
    "broken teacher": (
        "broken_distillation",
        lambda folder: change_json(folder / "distilled" / "manifest.json", {"num_truncated": 70}),
        "70 cut at the length limit, 1 empty, of 700",
    ),
    "filters": ("many_dropped", training(shifted), "length ratio over 3"),
    "vocabulary": ("large_vocabulary", config(data__limit=30), "half of them occur"),
    "nothing learnt": ("learnt_nothing", decode(bleu=0.4), "BLEU 0.40 after 1500 updates"),
    "repetition": ("repetition", decode(repetition_rate=0.12), "12.0 % of the words repeat the word before them"),
    "short": ("wrong_length", decode(length_ratio=0.7), "too short: they have 0.70 times"),
    "long": ("wrong_length", decode(length_ratio=1.4), "too long: they have 1.40 times"),
    "unknown": ("unknown_tokens", decode(unknown_rate=0.03), "3.0 % of the tokens of the translations"),
    "empty": ("empty_translations", decode(num_empty_translations=18), "18 of 120 translations (15.0 %)"),
    "one output": ("same_translation", one_output, "10.0 % of the sentences have one and the same translation"),
    "cut": ("cut_short", decode(num_truncated=30), "30 of 120 translations (25.0 %)"),
}


def test_nothing_is_found_in_a_healthy_run(healthy: Path) -> None:
    diagnosis, plain = doctor(
        parse(DoctorConfig, {"run_dir": str(healthy / "run"), "decode": str(healthy / "out.json"), "device": "cpu"})
    )
    assert diagnosis.findings == {}
    assert diagnosis.facts.notes == []
    assert diagnosis.facts.training is not None
    assert diagnosis.facts.training.num_looked_at == 700
    assert [part.num_shared for part in diagnosis.facts.overlaps] == [0, 0]
    assert diagnosis.facts.origin.distilled is True
    assert "Nothing wrong was found." in describe(plain)


@pytest.mark.parametrize("case", FAULTS)
def test_a_planted_fault_is_the_one_thing_found(healthy: Path, options: set[str], tmp_path: Path, case: str) -> None:
    name, break_it, part = FAULTS[case]
    folder = tmp_path / "broken"
    shutil.copytree(healthy, folder)
    paths = {f"data.{split}": str(folder / f"{split}.jsonl") for split in ("valid", "test")}
    change_config(folder / "run", paths | {"data.train": str(folder / "distilled" / "train.jsonl")})
    break_it(folder)
    findings = findings_of(folder)
    assert list(findings) == [name]
    finding = findings[name]
    assert part.lower() in finding.what.lower()
    assert finding.threshold.reason
    command, *overrides = finding.override.split()
    assert command in ("nat-train", "nat-decode", "nat-distill")
    for override in overrides if command == "nat-train" else ():
        assert override.partition("=")[0] in options or override in ("(as", "before)")


def test_every_check_has_its_fault() -> None:
    by_facts = {"unlearnable", "no_warm_up", "too_few_passes", "pointless_passes"}
    assert {check.__name__ for check in CHECKS} == {name for name, _, _ in FAULTS.values()} | by_facts


# --- checks that need no folder ----------------------------------------------------------------------


def facts_of(run: dict[str, Any] | None = None, **changes: Any) -> Facts:
    done = {"finished": True, "update": 3000, "tokens": 3_000_000}
    config = {"trainer": {"max_updates": 3000}, "schedule": {"warmup": 300}, "model": {"size": {"norm": "pre"}}}
    lines = [{"kind": "valid", "update": update, "bleu": 30.0} for update in (1000, 2000, 3000)]
    facts = RunFacts(config | (run or {}), done, lines)
    return replace(Facts(facts, Origin(True, "")), **changes)


def refined(trials: list[Trial], **report: Any) -> DecodeFacts:
    groups = [{"length": 10, "sentences": 100, "passes": 4}]
    return DecodeFacts(DECODE | {"passes": 4.0, "passes_by_length": groups, "bleu": 20.0} | report, trials=trials)


def test_passes_are_judged_by_other_numbers_of_them() -> None:
    more, fewer = Trial(8, 7.8, 22.0, 0.01), Trial(2, 2.0, 17.0, 0.001)
    assert list(examine_facts(facts_of(decode=refined([more, fewer])))) == ["too_few_passes"]
    for other in (replace(more, p_value=0.2), replace(more, bleu=20.3)):
        assert examine_facts(facts_of(decode=refined([other, fewer]))) == {}
    found = examine_facts(facts_of(decode=refined([fewer, replace(fewer, bleu=19.95)])))
    assert list(found) == ["pointless_passes"]
    assert found["pointless_passes"].override == "nat-decode decoding.max_passes=2"
    assert examine_facts(facts_of(decode=refined([replace(fewer, bleu=19.95, passes=3.9)]))) == {}  # saves nothing


def test_a_pass_of_several_decoder_calls_is_one_of_max_passes() -> None:
    assert other_limits(20, 10, calls_per_pass=3) == [3]
    assert other_limits(29, 10, calls_per_pass=3) == [5, 20]
    assert other_limits(1, None, calls_per_pass=1) == [2]
    cut = refined([], passes=20.0, num_truncated=60, decoding={"max_passes": 10})
    by_length = examine_facts(facts_of(decode=replace(cut, calls_per_pass=3)))["cut_short"]
    assert by_length.override == "nat-decode decoding.max_length_factor=4"
    by_passes = examine_facts(facts_of(decode=cut))["cut_short"]
    assert by_passes.override == "nat-decode decoding.max_passes=20"


def test_limits_of_the_method() -> None:
    why = "longer than positions.max_length, or a length difference over length.max_offset"
    run = {"model": {"length": {"max_offset": 16}}}
    text = text_facts(num_target_tokens=1e6, num_unlearnable=5000, why_unlearnable=why)
    found = examine_facts(facts_of(run, training=text))
    assert list(found) == ["unlearnable"]
    assert found["unlearnable"].what == f"5.0 % of the training pairs cannot be learnt by this method: {why}."
    assert found["unlearnable"].override == "nat-train model.length.max_offset=32"
    assert examine_facts(facts_of(run, training=replace(text, num_unlearnable=900))) == {}


def test_repetition_is_mended_by_what_the_method_has() -> None:
    for decoding, override in (({}, "nat-train model=ctc"), ({"max_passes": 4}, "nat-decode decoding.max_passes=8")):
        found = examine_facts(facts_of(decode=refined([], repetition_rate=0.06, decoding=decoding)))
        assert [finding.override for finding in found.values()] == [override]


def test_lengths_are_mended_by_what_the_method_has() -> None:
    cases = [
        ({"length_beam": 1}, 0.7, "nat-decode decoding.length_beam=5"),
        ({"length_bonus": None}, 0.7, "nat-decode decoding.beam_size=10 decoding.language_model=lm.arpa"),
        ({"end_penalty": 0.0}, 0.7, "nat-decode decoding.end_penalty=1"),
        ({"length_penalty": None}, 0.7, "nat-decode decoding.beam_size=4 decoding.length_penalty=1.2"),
        ({"length_penalty": None}, 1.3, "nat-decode decoding.beam_size=4 decoding.length_penalty=0"),
        ({"length_bonus": None}, 1.3, "nat-train trainer.max_updates=N"),
    ]
    for decoding, ratio, override in cases:
        found = examine_facts(facts_of(decode=refined([], length_ratio=ratio, decoding=decoding)))
        assert [finding.override for finding in found.values()] == [override]


def test_a_canvas_that_is_just_long_enough(healthy: Path, tmp_path: Path) -> None:
    """A pair is short where CTC's own rule says that it has no alignment, not before."""
    shutil.copytree(healthy, folder := tmp_path / "long")
    training(lambda pairs: [(s, " ".join([t] * (i % 6 + 1))) for i, (s, t) in enumerate(pairs)])(folder)
    config(data__filters__max_ratio=20.0)(folder)
    translator = nat.load(folder / "run")
    corpus = read_corpus(translator, Split.TRAIN, {})
    pairs = corpus.pairs(np.arange(len(corpus)))
    room = 3 * source_lengths(pairs) - needed_slots(pairs)  # model.upsampling
    assert (room == 0).any()
    short = ~translator.model.learnable(collate(pairs)).numpy()
    assert short.tolist() == (room < 0).tolist()
    text = read_training_text(translator.model, corpus, count=len(corpus))
    assert text.num_short == short.sum() > 0
    assert text.num_unlearnable == 0


@pytest.mark.parametrize(("validated", "asked"), [(20, "data.valid=FILE"), (500, "validation.max_sentences=300")])
def test_more_validation_text_or_more_of_it(validated: int, asked: str) -> None:
    found = examine_facts(facts_of({"validation": {"max_sentences": 20}}, num_validated=validated))
    assert {name: finding.override for name, finding in found.items()} == {
        "few_validation_sentences": f"nat-train {asked}"
    }


@pytest.mark.parametrize(("precision", "asked"), [("fp16", "trainer.precision=fp32"), ("fp32", "schedule.peak=0.001")])
def test_updates_without_a_gradient_are_mended_by_what_caused_them(precision: str, asked: str) -> None:
    facts = facts_of({"trainer": {"max_updates": 3000, "precision": precision}, "schedule": {"peak": 0.002}})
    found = examine_facts(replace(facts, run=replace(facts.run, summary={**facts.run.summary, "skipped": 31})))
    assert {name: finding.override for name, finding in found.items()} == {"many_skipped": f"nat-train {asked}"}


@pytest.mark.parametrize(("shared", "found"), [(100, []), (101, ["overlap"])])
def test_overlap_is_judged_by_its_share(shared: int, found: list[str]) -> None:
    assert list(examine_facts(facts_of(overlaps=[Overlap("test", 10_000, shared)]))) == found


def test_post_norm_needs_warm_up() -> None:
    for norm, warmup, names in (("post", 0, ["no_warm_up"]), ("pre", 0, []), ("post", 300, [])):
        run = {"schedule": {"warmup": warmup}, "model": {"size": {"norm": norm}}}
        assert list(examine_facts(facts_of(run))) == names


def text_facts(**changes: Any) -> TrainingText:
    text = TrainingText(10**6, 10**6, {}, 10**5, None, 2, 0, "", 30e6, 32000, 500.0, 0, 0)
    return replace(text, **changes)


def test_updates_are_judged_by_the_size_of_the_corpus_too() -> None:
    found = examine_facts(facts_of(training=text_facts()))  # 1000 of 30 million tokens
    assert list(found) == ["few_tokens_per_update"]
    assert found["few_tokens_per_update"].figure == 30_000
    assert found["few_tokens_per_update"].override == "nat-train trainer.tokens_per_update=15000"
    assert examine_facts(facts_of(training=text_facts(num_target_tokens=7e6))) == {}


def test_what_is_not_known_is_no_fault() -> None:
    """Text of which no manifest tells, without sources that occur several times, or with one translation each."""
    unknown = facts_of(
        origin=Origin(None, "no manifest"), decode=refined([], passes_by_length=DECODE["passes_by_length"])
    )
    assert examine_facts(unknown) == {}
    text = text_facts(num_target_tokens=1e6, num_repeated=50, num_differing=1)
    assert examine_facts(replace(unknown, training=text)) == {}
    (name,) = examine_facts(replace(unknown, training=replace(text, num_differing=40)))
    assert name == "not_distilled"
    one_by_one = refined([], passes_by_length=[{"length": 10, "sentences": 100, "passes": 11}])
    assert examine_facts(facts_of(origin=Origin(False, "raw"), decode=one_by_one)) == {}  # autoregressive


def test_the_worst_comes_first() -> None:
    facts = facts_of(decode=refined([Trial(8, 7.8, 22.0, 0.01)]), overlaps=[Overlap("test", 100, 50)])
    facts = replace(facts, run=replace(facts.run, summary={"finished": True, "update": 3000, "memory_splits": 3000}))
    found = examine_facts(facts)
    assert list(found) == ["overlap", "too_few_passes", "many_memory_splits"]
    assert [finding.severity for finding in found.values()] == list(Severity)


def test_the_commonest_line() -> None:
    assert commonest(["a", "b", "a", "c"]) == 0.5
    assert commonest([]) == 0.0


# --- its own decode ----------------------------------------------------------------------------------


def test_a_run_that_learnt_nothing(small: list[str], tmp_path: Path) -> None:
    """Two updates of Mask-Predict, decoded now, also with other limits of passes."""
    run = tmp_path / "run"
    given = ["model=mask_predict", "trainer.max_updates=2", "model.length.max_offset=2"]
    assert command(*small, *given, f"run_dir={run}") == 0
    settings = {"run_dir": str(run), "sentences": 40, "split": "test", "device": "cpu", "decoding": {"max_passes": 2}}
    diagnosis, plain = doctor(parse(DoctorConfig, settings | {"training_pairs": 100}))
    expected = {"overlap", "few_validation_sentences", "learnt_nothing", "unlearnable"}
    assert expected <= diagnosis.findings.keys()
    assert "pointless_passes" not in diagnosis.findings
    decoded = diagnosis.facts.decode
    assert decoded is not None
    assert [trial.max_passes for trial in decoded.trials] == [1, 4]
    assert decoded.trials[0].passes == 1
    assert 1 < decoded.report["passes"] <= 2 < decoded.trials[1].passes <= 4
    assert decoded.reference_unknown == 0
    assert plain["decode"]["num_sentences"] == 40
    assert diagnosis.facts.notes == ["of 149 training pairs 100 were looked at (training_pairs=100)"]
    told = describe(plain)
    assert told.splitlines()[0] == f"MaskPredict {run} (weights: best checkpoint)"
    assert "1. [severe] " in told


def test_the_report_of_nat_decode_is_read(healthy: Path, tmp_path: Path) -> None:
    """The same figures as the doctor's own decode of the same sentences."""
    with pytest.raises(SystemExit):
        nat_decode([f"run_dir={healthy / 'run'}", f"output={tmp_path / 'out'}", "speed=false", "device=cpu"])
    given = {"run_dir": str(healthy / "run"), "device": "cpu"}
    read, _ = doctor(parse(DoctorConfig, given | {"decode": str(tmp_path / "out.json")}))
    now, _ = doctor(parse(DoctorConfig, given | {"split": "test"}))
    assert read.facts.decode is not None
    assert now.facts.decode is not None
    assert read.facts.decode.common_output == pytest.approx(now.facts.decode.common_output)
    for name in ("bleu", "repetition_rate", "length_ratio", "num_empty_translations", "passes_by_length"):
        assert read.facts.decode.report[name] == now.facts.decode.report[name]


# --- the command -------------------------------------------------------------------------------------


def run_main(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "device=cpu"])
    return int(stop.value.code or 0)


def test_the_command(healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "x", tmp_path / "doctor.json"
    shutil.copytree(healthy, folder)
    decode(length_ratio=0.7, repetition_rate=0.3)(folder)
    given = [f"run_dir={folder / 'run'}", f"decode={folder / 'out.json'}", f"output={output}"]
    assert run_main(*given) == 0
    told = capsys.readouterr().out
    assert "split test: BLEU 32.80, 1.0 passes a sentence" in told
    assert "1. [severe] 30.0 % of the words" in told
    assert "2. [costly] Translations are too short" in told
    assert "Limit 0.85: words over those of the references" in told
    plain = read_json(output)
    assert [found["check"] for found in plain["findings"]] == ["repetition", "wrong_length"]
    assert plain["findings"][1]["threshold"] == 0.85
    assert plain["training_text"]["num_pairs"] == 700


def test_text_that_is_gone_is_said(healthy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(healthy, folder)
    change_config(folder / "run", {f"data.{split}": f"gone/{split}.jsonl" for split in ("train", "valid", "test")})
    diagnosis, plain = doctor(parse(DoctorConfig, {"run_dir": str(folder / "run"), "device": "cpu"}))
    assert diagnosis.findings == {}
    assert diagnosis.facts.decode is None
    assert len(diagnosis.facts.notes) == 4  # three splits, and nothing to translate
    told = describe(plain)
    assert "Not looked at: the training text cannot be read" in told
    assert "Whether the training text is distilled cannot be known: data.train=gone/train.jsonl has no manifest" in told


@pytest.mark.parametrize("given", [{"data": {"streaming": True}}, {}])
def test_a_stream_is_not_read_through(healthy: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    """Whether this command says so or the run itself."""
    shutil.copytree(healthy / "run", run := tmp_path / "run")
    change_config(run, {"data.streaming": not given})
    given = given | {"run_dir": str(run), "decode": str(healthy / "out.json"), "device": "cpu"}
    diagnosis, _ = doctor(parse(DoctorConfig, given))
    assert diagnosis.facts.training is None
    assert "the training text is a stream (data.streaming=true)" in diagnosis.facts.notes[0]


@pytest.mark.parametrize(("done", "update", "ended"), [(True, 10, True), (False, 3000, True), (False, 2999, False)])
def test_a_run_has_ended_by_its_word_or_by_its_budget(done: bool, update: int, ended: bool) -> None:
    facts = RunFacts({"trainer": {"max_updates": 3000}}, {"finished": done, "update": update}, [])
    assert facts.ended is ended
    assert not RunFacts({}, {"update": update}, []).ended


def test_the_training_text_is_what_it_was(healthy: Path) -> None:
    """Options of the text that is translated do not change what is said of the training."""
    given = {"run_dir": str(healthy / "run"), "device": "cpu", "sentences": 5, "data": {"max_words": 5, "limit": 9}}
    facts = doctor(parse(DoctorConfig, given))[0].facts
    assert facts.training is not None
    assert facts.training.num_pairs == 700
    assert facts.num_validated is None  # of the run's own validation


REFUSALS = {
    "no run": (["run_dir=nowhere"], "nowhere: not a run folder"),
    "missing": ([], "run_dir: a value is needed"),
    "no report": (["decode=nowhere.json"], "nowhere.json: there is no such file"),
    "not a report": (["decode=other.json"], "decode=other.json: not a report of nat-decode (it has no run_dir"),
    "another run's": (["decode=theirs.json"], "decode=theirs.json: is a report of runs/theirs, not of "),
    "split": (["decode=out.json", "split=valid"], "split=valid: has no effect with decode=out.json"),
    "sentences": (["decode=out.json", "sentences=9"], "sentences=9: has no effect with decode=out.json"),
    "decoding": (["decode=out.json", "decoding.beam_size=9"], "decoding.beam_size=9: has no effect with decode="),
    "batches": (["decode=out.json", "decoding.batch_size=9"], "decoding.batch_size=9: has no effect with decode="),
    "graphs": (["decode=out.json", "decoding.cuda_graphs=true"], "decoding.cuda_graphs=True: has no effect with "),
    "train": (["split=train"], "split=train: allowed are valid and test"),
    "split that is gone": (["split=test", "data.test=gone.tsv"], "split=test: split test cannot be read"),
    "split without text": (["split=test", "data.test=null"], "split=test: data.test names no text"),
    "method": (["decoding.max_passes=9"], "decoding.max_passes=9: a CTC checkpoint"),
    "tokenizer": (["data.tokenizer.kind=bpe"], "data.tokenizer.kind=bpe: the tokenizer is the run's own"),
    "output": (["decode=out.json", "output=out.json"], "output=out.json: this is an input"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, part = REFUSALS[case]
    shutil.copy(healthy / "out.json", tmp_path / "out.json")
    write_json(tmp_path / "other.json", {"bleu": 3})
    write_json(tmp_path / "theirs.json", DECODE | {"run_dir": "runs/theirs"})
    monkeypatch.chdir(tmp_path)
    given = [f"run_dir={healthy / 'run'}"] if case not in ("no run", "missing") else []
    assert run_main(*given, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("nat-doctor: ")
    assert part in err


def test_damaged_curves(healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "x"
    shutil.copytree(healthy, folder)
    with open(folder / "run" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "va')  # by a run that was killed
    assert findings_of(folder) == {}
    with open(folder / "run" / "metrics.jsonl", "a") as file:
        file.write('\n{"kind": "valid"}\n')
    assert run_main(f"run_dir={folder / 'run'}", f"decode={folder / 'out.json'}") == 2
    assert "metrics.jsonl, line 8: damaged or unreadable" in capsys.readouterr().err


DAMAGED = {  # a file, what it says instead, what is said of that
    "updates as text": ("run/run.json", {"best": 5, "update": "x"}, "run.json: damaged or unreadable (update is"),
    "tokens in a list": ("run/run.json", {"tokens": [1]}, "run.json: damaged or unreadable (tokens is"),
    "skipped, but how many": ("run/run.json", {"skipped": True}, "run.json: damaged or unreadable (skipped is"),
    "a seed as text": ("run/run.json", {"seed": "x"}, "run.json: damaged or unreadable (seed is"),
    "too large for a float": ("run/run.json", {"tokens": 10**400}, "run.json: damaged or unreadable (tokens is"),
    "a score as text": ("run/metrics.jsonl", {"bleu": "x"}, "metrics.jsonl, line 8: damaged or unreadable (bleu is"),
    "a loss in an object": ("run/metrics.jsonl", {"loss": {}}, "metrics.jsonl, line 8: damaged or unreadable (loss is"),
    "a warm-up in words": (
        "run/config.yaml",
        {"schedule.warmup": "long"},
        "config.yaml: damaged or unreadable (schedule.warmup is",
    ),
    "a budget of lists": (
        "run/config.yaml",
        {"trainer.max_updates": [9]},
        "config.yaml: damaged or unreadable (trainer.max_updates is",
    ),
    "no manifest": ("manifest.json", [], "manifest.json: damaged or unreadable (it is not a JSON object"),
    "lines as text": ("manifest.json", {"num_lines": "x"}, "manifest.json: damaged or unreadable (num_lines is"),
    "passes as text": ("out.json", {"passes": "x"}, "out.json: damaged or unreadable (passes is"),
    "no groups": ("out.json", {"passes_by_length": 5}, "out.json: damaged or unreadable (passes_by_length is"),
    "a group": ("out.json", {"passes_by_length": [{"length": "x"}]}, "out.json: damaged or unreadable (length is"),
    "no options": ("out.json", {"decoding": 5}, "out.json: damaged or unreadable (decoding is"),
    "a run by number": ("out.json", {"run_dir": 5}, "out.json: damaged or unreadable (run_dir is"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_named_in_one_line(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    name, changes, told = DAMAGED[case]
    shutil.copytree(healthy, folder := tmp_path / "x")
    for text in (folder / "distilled").iterdir():  # so that the manifest is read
        shutil.move(text, folder / text.name)
    change_config(folder / "run", {"data.train": f"{folder}/train.jsonl"})
    if name.endswith(".jsonl"):
        with open(folder / name, "a") as file:
            file.write(line_of(1500, **changes))
    elif name.endswith(".yaml"):
        change_config(folder / "run", changes)
    else:
        write_json(folder / name, read_json(folder / name) | changes if changes else changes)
    assert run_main(f"run_dir={folder / 'run'}", f"decode={folder / 'out.json'}") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert told in err
