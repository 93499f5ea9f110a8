"""What TensorBoard gets of a run: samples with their passes, and options with final scores to set runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import nat
from nat.files import read_json
from nat.training.record import flattened
from nat.training.validation import marked

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def run(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mask-Predict, whose decoder makes several passes. Read it, never write into it."""
    folder = tmp_path_factory.mktemp("record") / "run"
    passes = "validation.decoding={max_passes: 3, length_beam: 2}"
    given = ["trainer.max_updates=8", "seed=2", "validation.num_samples=2", passes]  # the seed: of longer translations
    assert command(*small, "model=mask_predict", f"run_dir={folder}", *given) == 0
    return folder


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def lines_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_samples_have_their_passes(run: Path) -> None:
    """Those of the decoder on the sentence alone, with what is masked again in brackets; in TensorBoard as in
    samples.json, of every validation."""
    samples = read_json(run / "samples.json")
    assert [list(sample) for sample in samples] == [["source", "reference", "translation", "passes"]] * 2
    events = events_of(run)
    for number, sample in enumerate(samples):
        found = events.Tensors(f"sample/{number}/text_summary")
        assert [event.step for event in found] == [4, 8]
        text = found[-1].tensor_proto.string_val[0].decode()
        passes = [f"pass {i}: `` {line} ``" for i, line in enumerate(sample["passes"], start=1)]
        told = [f"{name}: {sample[name]}" for name in ("source", "reference", "translation")]
        assert text == "\n\n".join([*told, *passes])
        assert 1 < len(passes) <= 3
        assert "[" in sample["passes"][0]
        assert "[" not in sample["passes"][-1]
        last = sample["passes"][-1].split(" ")
        assert "".join(last).replace("\u2581", " ").strip() == sample["translation"].strip()


def test_passes_are_those_of_the_decoder(run: Path) -> None:
    """Of the weights that were validated last, on the sentence by itself."""
    translator = nat.load(run, device="cpu", weights=run / "best" / "update-00000008" / "model.safetensors")
    sample = read_json(run / "samples.json")[0]
    (found,) = translator.candidates([sample["source"]], max_passes=3, length_beam=2, history=True)
    assert found.history is not None
    target = translator.tokenizers.target
    assert [marked(one_pass, target) for one_pass in found.history[0]] == sample["passes"]
    assert found.best == sample["translation"]


def test_marks(run: Path) -> None:
    target = nat.load(run, device="cpu").tokenizers.target
    ids = [4, 5, 10, 11, 12]
    a, b, c = target.pieces(ids[2:])
    fates = ["masked", "kept", "written", "inserted", "deleted"]
    assert marked({"tokens": ids, "fate": fates}, target) == f"[<mask>] <blank> {a} {{{b}}} ~{c}~"


def test_runs_can_be_set_side_by_side(run: Path) -> None:
    """Options and final scores, in the run's own folder."""
    assert all(path.is_file() for path in (run / "tensorboard").iterdir())
    events = events_of(run)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["model"].string_value == "MaskPredict"
    assert options["model.encoder.attention"].string_value == "FullAttention"
    assert options["trainer.max_updates"].number_value == 8
    assert options["trainer.average_best"].string_value == "true"
    assert options["init_from"].string_value == "null"
    assert options["model.size.dim"].number_value == 16
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    named = {info.name.tag for info in HParamsPluginData.FromString(content).experiment.metric_infos}
    summary = read_json(run / "run.json")
    averaged = summary["weights"].startswith("average")
    (line,) = [
        line
        for line in lines_of(run, "valid_average" if averaged else "valid")
        if line["update"] == (summary["update"] if averaged else summary["best"]["update"])
    ]
    assert line["bleu"] == pytest.approx(summary["best_value"] if not averaged else line["bleu"])
    wanted = {name: line[name] for name in ("bleu", "chrf", "length_ratio", "repetition_rate", "loss")}
    wanted |= {"tokens": summary["tokens"], "minutes": summary["seconds"] / 60}
    assert {f"final/{name}" for name in wanted} <= named
    for name, value in wanted.items():
        (event,) = events.Scalars(f"final/{name}")
        assert event.step == 8
        assert event.value == pytest.approx(value, rel=1e-5)
    assert named <= set(events.Tags()["scalars"])  # TensorBoard shows no metric without one


def test_options_are_flat() -> None:
    model = {"_target_": "nat.models.ctc.CTC", "size": {"dim": 4}, "dropout": 0.5}
    options = {"model": model, "data": {"train": ["a", "ä"]}, "x": None, "y": False}
    assert dict(flattened(options)) == {
        "model": "CTC",
        "model.size.dim": 4,
        "model.dropout": 0.5,
        "data.train": '["a", "ä"]',
        "x": "null",
        "y": "false",
    }
