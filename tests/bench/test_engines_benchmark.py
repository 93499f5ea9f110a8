"""nat-bench engines, at small sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nat.bench.engine_contenders import BASELINES, CONTENDERS, EngineSizes, batches, untrained_student
from nat.bench.engines import chart_of, with_ratios
from nat.cli.bench import main
from nat.data.batch import Source
from nat.data.vocabulary import Symbol

SMALL = {"vocabulary_size": 300, "head_dim": 8, "encoder_layers": 1, "slot_layers": 1, "batch_size": 4}
WORDS = [f"engines.{name}={value}" for name, value in SMALL.items()]


def test_all_contenders_translate_and_the_ratios_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, picture = tmp_path / "engines.json", tmp_path / "engines.svg"
    words = [*WORDS, "engines.dims=[16,32]", "repeats=1", f"output={output}", f"engines.picture={picture}"]
    with pytest.raises(SystemExit) as exit_of:
        main(["engines", *words])
    assert not exit_of.value.code
    figures = json.loads(output.read_text())
    assert [(row["dim"], row["name"]) for row in figures["results"]] == [(d, n) for d in (16, 32) for n in CONTENDERS]
    for row in figures["results"]:
        assert row["ms_alone"] > 0 and row["sentences_per_second"] > 0
        assert set(row["times_as_fast"]) == set(BASELINES)
    assert figures["results"][3]["times_as_fast"][BASELINES[0]] == {"alone": 1.0, "batches": 1.0}
    table = capsys.readouterr().out
    assert table.startswith("| D | times as fast as | int8-6+6, alone | int8-6+6, batches | int8-12+1, alone |")
    assert picture.read_bytes().count(b"<svg") == 1


def test_ratios_are_of_times_alone_and_of_rates_in_batches() -> None:
    rows = [
        {"name": "student-onnx-int8", "dim": 64, "ms_alone": 2.0, "sentences_per_second": 300.0},
        {"name": BASELINES[0], "dim": 64, "ms_alone": 10.0, "sentences_per_second": 100.0},
    ]
    student, teacher = with_ratios(rows, BASELINES)
    assert student["times_as_fast"] == {BASELINES[0]: {"alone": 5.0, "batches": 3.0}}
    assert teacher["times_as_fast"] == {BASELINES[0]: {"alone": 1.0, "batches": 1.0}}
    assert [series.points for series in chart_of([student, teacher]).series] == [[(64, 5.0)], [(64, 3.0)]]


def test_half_of_the_students_slots_are_blank_and_its_gate_is_sure() -> None:
    sizes = EngineSizes(**{**SMALL, "batch_size": 32})  # type: ignore[arg-type]
    student = untrained_student(sizes, 32)
    source = Source.from_lists(next(batches(sizes, 1)).tolist())
    with torch.no_grad():
        head, states, _ = student.states(source)
        blank = head.argmax(states) == int(Symbol.BLANK)
        odds = student.net.blank_gate(states)  # type: ignore[misc]
    assert float(blank.double().mean()) == pytest.approx(0.5, abs=0.12)  # a close gate may still say blank
    assert np.median(odds.abs()) > 5


def test_a_name_or_a_width_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, reason in (
        (["engines.contenders=[student-onnx-int4]"], "no such contender"),
        (["engines.dims=[130]"], "must be a multiple of its 4 heads"),
        (["engines.picture=x.svg"], "needs several dims"),
    ):
        with pytest.raises(SystemExit) as exit_of:
            main(["engines", *words])
        assert exit_of.value.code == 2 and reason in capsys.readouterr().err
