"""Systems from what a user names: run folders, each with options of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yaml import YAMLError, safe_load

from nat.config import option, parse
from nat.decoding.candidates import Choice, resolve_choice
from nat.decoding.translator import Translator
from nat.engines.ctranslate2 import Engine, accelerate
from nat.errors import ConfigError
from nat.evaluation.inputs import Device, Split, decoding_options, open_run
from nat.evaluation.system import Scorer, System

LITERAL = ("name", "teacher")  # text as it stands, even where it reads like a number


@dataclass(frozen=True)
class SystemsConfig:
    """The options of every command that sets systems side by side."""

    run_dirs: list[str] = option(help="run folders, each also as FOLDER?beam_size=4&name=LABEL, see nat-report")
    output: str = option(help="folder of everything that is written")
    split: Split = option(Split.TEST, "what is translated: test, valid or train")
    device: Device = option(Device.AUTO, "auto, cpu or cuda")
    num_threads: int | None = option(None, "CPU threads of torch; null: torch's choice", minimum=1)
    data: dict[str, Any] = field(default_factory=dict, metadata={"help": "options over those of the first run"})
    decoding: dict[str, Any] = field(default_factory=dict, metadata={"help": "batch_size and options for every system"})

    def __post_init__(self) -> None:
        if not self.run_dirs:
            raise ConfigError("run_dirs=[]: at least one run folder is needed")


def open_systems(entries: Sequence[str], *, decoding: Mapping[str, Any], device: Device) -> list[System]:
    """Load every run, each folder once. entries: FOLDER?option=value&name=LABEL; decoding: options for every system.
    Raises ConfigError or DataError; two systems of one name are refused."""
    systems: list[System] = []
    opened: dict[Path, Translator] = {}

    def open_once(run_dir: str) -> Translator:
        where = Path(run_dir).resolve()
        if where not in opened:
            opened[where] = open_run(run_dir, device=device)
        return opened[where]

    for entry in entries:
        try:
            system = open_system(entry, decoding, open_once)
        except ConfigError as error:
            raise ConfigError("\n".join(f"run_dirs, {entry}: {line}" for line in str(error).splitlines())) from None
        if system.name in [other.name for other in systems]:
            folder = entry.partition("?")[0]
            raise ConfigError(f"run_dirs: two systems are called '{system.name}', label one: {folder}?name=LABEL")
        systems.append(system)
    return systems


def open_system(entry: str, decoding: Mapping[str, Any], open_once: Callable[[str], Translator]) -> System:
    """The system of an entry; decoding: options for every system. Raises ConfigError or DataError."""
    run_dir, name, options = parse_entry(entry)
    translator = open_once(run_dir)
    if parse(Engine, options.pop("engine", Engine.TORCH.value), "engine") is Engine.CTRANSLATE2:
        translator = accelerate(translator)
    choose, teacher = options.pop("choose", None), options.pop("teacher", None)
    asked = None if choose is None else parse(Choice, choose, "choose")
    own, batch_size = decoding_options(translator, {**decoding, **options})
    if own.reverse:
        raise ConfigError("direction: the systems of a report translate one way, the corpus's; nat-decode does both")
    choice = resolve_choice(asked, teacher=teacher is not None, num_candidates=own.num_candidates)
    scorer = None if teacher is None else Scorer(teacher, open_once(teacher))
    return System(name, translator, own, batch_size, choice, scorer)


def parse_entry(entry: str) -> tuple[str, str, dict[str, Any]]:
    """`FOLDER?option=value&name=LABEL` -> folder, label (by default the folder's name and the options), options.
    Raises ConfigError."""
    run_dir, _, query = entry.partition("?")
    parts = query.split("&") if query else []
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"'{part}' is not option=value; write FOLDER?beam_size=4&name=LABEL")
        try:
            options[key] = value if key in LITERAL else safe_load(value)
        except YAMLError:
            raise ConfigError(f"the value of {key} cannot be read") from None
    name = options.pop("name", " ".join([Path(run_dir).resolve().name, *parts]))
    return run_dir, name, options
