"""Whole numbers that a person can type have an upper bound, so that no absurd size runs a machine out of memory or for
ever; a model that the machine cannot hold is refused."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from builders import VOCABULARIES, command

import nat
from nat.composition import compose
from nat.config import Component, parse
from nat.errors import ConfigError
from nat.runs.memory import Allowance

# The most of something that may be had less of, or a name: any number will do.
ANY = {
    "seed", "limit", "source_words", "max_words", "max_sentences", "sentences", "training_pairs", "samples", "examples",
    "speed_sentences", "num_samples", "patience", "min_tokens", "max_tokens", "ratio_from", "fit_from",
}  # fmt: skip


def dataclasses_of(owner: Any, module: str) -> Iterator[type]:
    for value in vars(owner).values():
        if isinstance(value, type) and value.__module__ == module and value is not owner:
            if dataclasses.is_dataclass(value):
                yield value
            yield from dataclasses_of(value, module)


def number_options() -> list[tuple[str, dataclasses.Field[Any]]]:
    """Every option that is a whole number, or a list of them, by its full name."""
    options = {}
    for info in pkgutil.walk_packages(nat.__path__, "nat."):
        for kind in dataclasses_of(importlib.import_module(info.name), info.name):
            if kind.__name__ == "TrainingState":  # is saved, not typed
                continue
            hints = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                if field.metadata.get("help") and int in (typing.get_args(hints[field.name]) or (hints[field.name],)):
                    options[f"{info.name}.{kind.__qualname__}.{field.name}"] = field
    assert len(options) > 100
    return sorted(options.items())


def test_every_whole_number_has_a_bound() -> None:
    unbounded = [name for name, field in number_options() if field.name not in ANY and not is_bounded(field)]
    assert unbounded == []


def is_bounded(field: dataclasses.Field[Any]) -> bool:
    return field.metadata["maximum"] is not None or field.metadata["below"] is not None


@pytest.mark.parametrize(
    "option",
    [
        "model.size.dim=1000000000", "encoder.num_layers=1000000", "trainer.tokens_per_update=100000000000000000000",
        "trainer.num_threads=100000", "seed=100000000000000000000000", "validation.decoding={beam_size: 1000000000}",
        "validation.decoding={max_length_factor: 1e30}", "validation.decoding={num_candidates: 1000000000}",
        "trainer.max_minutes=nan", "schedule.peak=inf", "data.tokenizer.vocabulary_size=1000000000",
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused(
    option: str, small: list[str], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*small, f"run_dir={tmp_path / 'run'}", option) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("nat-train: ") and " must be " in line for line in lines)
    assert not (tmp_path / "run" / "tokenizer").exists()


def test_a_model_that_does_not_fit_is_refused_before_it_is_made() -> None:
    model = parse(Component, compose("train", ["run_dir=x", "model=ctc", "model.size.dim=65536"])["model"], "model")
    said = r"model: [\d,]+ numbers or more; with 4 copies of 4 bytes they exceed this machine's memory of [\d.]+ GB"
    with pytest.raises(ConfigError, match=said), Allowance(copies=4):
        model.build(vocabularies=VOCABULARIES)


def test_a_model_that_fits_is_made_as_ever() -> None:
    model = parse(Component, compose("train", ["run_dir=x", "model=ctc", "experiment=tiny"])["model"], "model")
    built = []
    for _ in range(2):
        torch.manual_seed(1)
        with Allowance(copies=4) as allowance:
            built.append(model.build(vocabularies=VOCABULARIES).state_dict())
    torch.manual_seed(1)
    alone = model.build(vocabularies=VOCABULARIES).state_dict()
    assert all(torch.equal(alone[name], built[1][name]) for name in alone)
    assert allowance.count >= sum(tensor.numel() for tensor in alone.values())
