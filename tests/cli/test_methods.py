"""nat-train and nat-decode of the methods, as users type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from builders import command

from nat.cli.decode import main
from nat.runs.folder import latest_checkpoint
from nat.runs.weights import load_tensors

pytestmark = pytest.mark.timeout(300)
SENTENCES = ["Click OK.", "Opens the dialog.", "", "Choose the menu item to insert a new table."]


def decode(run: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([f"run_dir={run}", "speed=false", "device=cpu", *arguments])
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("model", "training", "decoding", "passes"),
    [
        ("vanilla", ["model.copy=soft", "model.length.summary=token"], ["length_beam=3", "num_candidates=2"], (1, 1)),
        ("mask_predict", [], ["max_passes=3"], (1, 3)),
        ("refinement", [], ["max_passes=3", "adaptive=false"], (3, 3)),
        ("levenshtein", ["model.drafts=0"], ["max_passes=3", "placeholder_penalty=1"], (1, 9)),
        ("ctc", ["model.glancing={start: 0.5, end: 0.3, updates: 10}"], [], (1, 1)),
    ],
)
def test_a_method_trains_and_decodes(
    model: str,
    training: list[str],
    decoding: list[str],
    passes: tuple[int, int],
    small: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, source, output = tmp_path / "run", tmp_path / "source.txt", tmp_path / "out.txt"
    assert command(*small, f"model={model}", f"run_dir={run}", *training) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if line["kind"] == "train"] == list(range(1, 13))
    source.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    options = [f"decoding.{option}" for option in decoding]
    assert decode(run, f"source={source}", f"output={output}", *options) == 0
    outputs = output.read_text(encoding="utf-8").splitlines()
    assert [not line for line in outputs[2:3]] == [True]
    assert len(outputs) == len(SENTENCES)
    report = json.loads(Path(f"{output}.json").read_text(encoding="utf-8"))
    assert passes[0] <= report["passes"] <= passes[1]
    for option in decoding:
        name, value = option.split("=")
        assert report["decoding"][name] == json.loads(value)
    if model == "vanilla":
        refusals(run, source, capsys)


def refusals(run: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, line in (
        (["num_candidates=3", "length_beam=2"], "num_candidates=3: must be at most length_beam=2, unless temperature"),
        (["temperature=0.5", "length_beam=2"], "length_beam=2: has no effect with temperature"),
    ):
        capsys.readouterr()
        assert decode(run, f"source={source}", *(f"decoding.{option}" for option in options)) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith("nat-decode: ")
        assert line in told


def test_a_stochastic_method_resumes_bit_equal(small: list[str], tmp_path: Path) -> None:
    """Its masks and its dropout are functions of the update, so that stopping half-way changes nothing."""
    still = [*small, "model=mask_predict", "schedule.shape=constant", "schedule.warmup=3"]
    halves, whole = f"run_dir={tmp_path / 'halves'}", f"run_dir={tmp_path / 'whole'}"
    assert command(*still, halves, "trainer.max_updates=6") == 0
    assert command(*still, halves) == 0
    assert command(*still, whole) == 0
    paths = [latest_checkpoint(tmp_path / name) for name in ("halves", "whole")]
    first, second = (load_tensors(path / "model.safetensors") for path in paths if path is not None)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
