"""Damaged files and impossible options: no command ends in a traceback or a crash, none hangs, and each says what is
wrong."""

from __future__ import annotations

import functools
import random
import shutil
from pathlib import Path

import fuzzing
import pytest
from fuzzing import COMMANDS, MODELS, WORDS, Outcome
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

FEW = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=400, derandomize=False)


class Trials:
    """Commands on copies of run folders."""

    def __init__(self, folder: Path, small: list[str]) -> None:
        self.folder, self.number = folder, 0
        self.runs = fuzzing.Runs(folder / "runs", small)

    @functools.cached_property
    def distilled(self) -> Path:
        return fuzzing.make_distilled(self.runs["ctc"], self.folder / "distilled")

    def try_out(self, name: str, model: str, draw: random.Random, *, options: bool) -> Outcome:
        """The command with odd options, or with a file of its run damaged."""
        model = {"edit": "levenshtein", "cloze": "kermit", "export": "ctc"}.get(name, model)
        self.number += 1
        folder = self.folder / str(self.number)
        folder.mkdir()
        run = Path(shutil.copytree(self.runs[model], folder / "run"))
        words = fuzzing.usual_words(name, run, model, self.runs, folder)
        if options:
            names = fuzzing.option_names(name, model)
            words += [f"{draw.choice(names)}={draw.choice(WORDS)}" for _ in range(draw.choice((1, 1, 2)))]
        else:
            spoiled = run
            if name == "distill" and draw.random() < 0.5:
                spoiled = Path(shutil.copytree(self.distilled, folder / "out"))
            path = spoiled / draw.choice(fuzzing.files_of(spoiled))
            note(f"{path}: {fuzzing.damage(path, draw)}")
        note(f"nat-{name} {' '.join(words)}")
        outcome = fuzzing.run(name, words, folder / "log")
        note(outcome.output)
        if outcome.fault is None:
            shutil.rmtree(folder)
        return outcome


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Trials:
    return Trials(tmp_path_factory.mktemp("fuzz"), small)


NAMES, METHODS, DRAWS = st.sampled_from(COMMANDS), st.sampled_from(MODELS), st.randoms(use_true_random=False)
QUICK = st.sampled_from(("decode", "distill", "doctor", "report", "train"))


@FEW
@given(name=QUICK, draw=DRAWS, options=st.booleans())
def test_a_few_commands(trials: Trials, name: str, draw: random.Random, options: bool) -> None:
    assert trials.try_out(name, "ctc", draw, options=options).fault is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(name=NAMES, model=METHODS, draw=DRAWS)
def test_many_odd_options(trials: Trials, name: str, model: str, draw: random.Random) -> None:
    assert trials.try_out(name, model, draw, options=True).fault is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(name=NAMES, model=METHODS, draw=DRAWS)
def test_many_damaged_files(trials: Trials, name: str, model: str, draw: random.Random) -> None:
    assert trials.try_out(name, model, draw, options=False).fault is None
