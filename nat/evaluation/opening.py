"""Systems from what a user names: run folders, each with options of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from yaml import YAMLError, safe_load

from nat.config import option, parse
from nat.decoding.candidates import Choice, resolve_choice
from nat.decoding.options import DecodingCommandConfig, Device
from nat.decoding.translator import Translator
from nat.engines.choice import Engine, decoding_options
from nat.engines.hub_teacher import OPTIONS as HUB_OPTIONS
from nat.engines.hub_teacher import PREFIX as HUB_TEACHER
from nat.engines.opening import load
from nat.errors import ConfigError
from nat.evaluation.inputs import Split
from nat.evaluation.system import Scorer, System
from nat.runs.folder import run_summary
from nat.runs.locations import EMBEDDED, HUB
from nat.scoring.tokenization import BleuTokenizer

LITERAL = ("name", "teacher", "weights", "drafter")  # text as it stands, even where it reads like a number


@dataclass(frozen=True)
class SystemOptions:
    """A system as a user describes it. name: null is that of the run folder. decoding: batch_size, max_tokens,
    precision and the method's options."""

    run_dir: str
    name: str | None = None
    weights: str | None = None
    engine: Engine = Engine.TORCH
    choose: Choice | None = None
    teacher: str | None = None
    drafter: str | None = None
    max_source_tokens: int | None = option(None, minimum=1, maximum=1_000_000_000)
    decoding: dict[str, Any] = field(default_factory=dict)


ABOUT_SYSTEM = {f.name for f in fields(SystemOptions)} - {"run_dir", "decoding"}  # the others are decoding options


@dataclass(frozen=True, kw_only=True)
class SystemConfig(DecodingCommandConfig):
    """The options of every command that looks at one run."""

    run_dir: str = option(help="run folder of the model")
    weights: str | None = option(None, "other weights of that run, a .safetensors file")

    @property
    def inputs(self) -> Iterable[str | None]:
        return (self.weights,)

    @property
    def runs(self) -> Iterable[str | None]:
        return (self.run_dir,)

    @property
    def system(self) -> SystemOptions:
        return SystemOptions(self.run_dir, weights=self.weights, decoding=self.decoding)


@dataclass(frozen=True, kw_only=True)
class SystemsConfig(DecodingCommandConfig):
    """The options of every command that sets systems side by side."""

    run_dirs: list[str] = option(help="run folders, each also as FOLDER?beam_size=4&name=LABEL, see nat-report")
    output: str = option(help="folder of everything that is written")
    split: Split = option(Split.TEST, "what is translated: test, valid or train")
    bleu_tokenizer: BleuTokenizer | None = option(
        None, "words of BLEU: 13a, intl, zh, ja-mecab, ko-mecab, char, none; null: as the references' script needs"
    )

    def __post_init__(self) -> None:
        if not self.run_dirs:
            raise ConfigError("run_dirs=[]: at least one run folder is needed")
        if self.bleu_tokenizer is not None:
            self.bleu_tokenizer.check()

    @property
    def runs(self) -> Iterable[str | None]:
        return [split_entry(entry)[0] for entry in self.run_dirs]


class Runs:
    """Run folders, each opened once."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._opened: dict[tuple[Path, str | None], Translator] = {}

    def open(self, run_dir: str, *, weights: str | None = None) -> Translator:
        """A run's translator. Raises ConfigError where there is no GPU to use, DataError where the run is damaged."""
        key = Path(run_dir).resolve(), weights
        if key not in self._opened:
            translator = load(run_dir, device=self.device.value, weights=weights)
            run_summary(translator.folder)  # damaged? better known now than after an hour
            self._opened[key] = translator
        return self._opened[key]


def open_system(options: SystemOptions, runs: Runs) -> System:
    """Raises ConfigError where the run's method has no such options, ConfigError or DataError where a run cannot be
    used."""
    opened = runs.open(options.run_dir, weights=options.weights)
    translator, decoding, batches = decoding_options(opened, options.decoding, options.engine)
    drafter = None if options.drafter is None else runs.open(options.drafter)
    translator = translator.with_drafter(drafter, decoding)
    has_teacher = options.teacher is not None
    choice = resolve_choice(options.choose, teacher=has_teacher, num_candidates=decoding.num_candidates)
    scorer = None
    if options.teacher is not None:
        scorer = Scorer(options.teacher, runs.open(options.teacher).in_precision(translator.precision))
    return System(
        options.name or called(options.run_dir),
        translator,
        decoding,
        batches,
        choice,
        scorer,
        max_source_tokens=options.max_source_tokens,
    )


def open_systems(config: SystemsConfig) -> list[System]:
    """Every run of `run_dirs`. Raises ConfigError or DataError; two systems of one name are refused."""
    systems: list[System] = []
    runs = Runs(config.device)
    for entry in config.run_dirs:
        try:
            system = open_system(parse_entry(entry, config.decoding), runs)
            if system.decoding.reverse:
                raise ConfigError(
                    "direction: the systems of a report translate one way, the corpus's; nat-decode does both"
                )
        except ConfigError as error:
            raise ConfigError("\n".join(f"run_dirs, {entry}: {line}" for line in str(error).splitlines())) from None
        if system.name in [other.name for other in systems]:
            folder = split_entry(entry)[0]
            raise ConfigError(f"run_dirs: two systems are called '{system.name}', label one: {folder}?name=LABEL")
        systems.append(system)
    return systems


def parse_entry(entry: str, decoding: Mapping[str, Any]) -> SystemOptions:
    """`FOLDER?option=value&name=LABEL`, by default called by the folder's name and the options. decoding: options for
    every system. Raises ConfigError."""
    run_dir, parts = split_entry(entry)
    options: dict[str, Any] = {"name": " ".join([called(run_dir), *parts])}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"'{part}' is not option=value; write FOLDER?beam_size=4&name=LABEL")
        try:
            options[key] = value if key in LITERAL else safe_load(value)
        except YAMLError:
            raise ConfigError(f"the value of {key} cannot be read") from None
    about_system = {key: options.pop(key) for key in ABOUT_SYSTEM & options.keys()}
    return parse(SystemOptions, {"run_dir": run_dir, **about_system, "decoding": {**decoding, **options}})


def split_entry(entry: str) -> tuple[str, list[str]]:
    """The run that an entry names, and the options behind it. Those of a teacher of transformers are part of its
    name."""
    run_dir, _, query = entry.partition("?")
    parts = query.split("&") if query else []
    if not run_dir.startswith(HUB_TEACHER):
        return run_dir, parts
    own = [part for part in parts if part.partition("=")[0] in HUB_OPTIONS]
    return "?".join([run_dir, *(["&".join(own)] if own else [])]), [part for part in parts if part not in own]


def called(run_dir: str) -> str:
    """What a system of this run is called, unless it has a name of its own: the last part of it."""
    place = run_dir.partition("?")[0]
    return place.rpartition("/")[2] if place.startswith((HUB, HUB_TEACHER, EMBEDDED)) else Path(place).resolve().name
