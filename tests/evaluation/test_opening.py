"""A system from what a user names: the teacher that chooses computes as the system does."""

from __future__ import annotations

from pathlib import Path

from nat.decoding.batch_options import BatchOptions
from nat.decoding.options import Device
from nat.evaluation.opening import Runs, SystemOptions, open_system


def test_the_teacher_scores_in_the_precision_of_the_system(tiny_runs: dict[str, Path]) -> None:
    student, teacher = str(tiny_runs["ctc"]), str(tiny_runs["autoregressive"])
    decoding = {"precision": "bf16", "max_tokens": 99, "beam_size": 2, "num_candidates": 2}
    runs = Runs(Device.CPU)
    system = open_system(SystemOptions(student, teacher=teacher, decoding=decoding), runs)
    assert system.scorer is not None
    assert (system.translator.computed_in, system.scorer.translator.computed_in) == ("bf16", "bf16")
    assert system.batches == BatchOptions(64, 99)
    assert runs.open(teacher).computed_in == "fp32"  # another system may ask for it so
