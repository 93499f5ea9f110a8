"""What translates lines for the server: an exported graph, without torch, or whatever `nat.load` opens."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nat.config import load_yaml
from nat.data.tags import TargetTags
from nat.errors import ConfigError, DataError
from nat.runs.locations import run_folder


@dataclass(frozen=True)
class Options:
    """What a request may ask of a translation. passes: decoder calls, at most; None: as the method has it. terms: words
    or phrases of the target that it must contain."""

    passes: int | None = None
    terms: tuple[str, ...] = ()


class LineTranslator(Protocol):
    def to_language(self, language: str) -> LineTranslator:
        """Of a model that writes several: the same one, which writes this. Any other writes what it does, whatever that
        is called. Raises ConfigError where it is none of them."""
        ...

    def check(self, lines: Sequence[str], options: Options) -> None:
        """Raises ConfigError for options that the model cannot heed, DataError for a line that is too long. Called
        while another thread translates."""
        ...

    def translate(self, lines: Sequence[str], options: Sequence[Options]) -> list[str]:
        """Of lines that passed `check`, with the options of each."""
        ...


def open_translator(folder: str, *, num_threads: int) -> LineTranslator:
    """Raises ConfigError or DataError where the folder cannot be used."""
    path = run_folder(folder)
    return Graph(path, num_threads) if is_graph(path) else Run(path, num_threads)


def is_graph(folder: Path) -> bool:
    """An export of nat-export that one ONNX graph translates: it needs no torch."""
    return (folder / "manifest.json").is_file() and (folder / "model.onnx").is_file()


class Graph:
    def __init__(self, folder: Path, num_threads: int) -> None:
        from nat.engines.manifest import read_manifest
        from nat.engines.translate import Model

        read_manifest(folder)  # every file is as it was written
        self.tags = TargetTags.of(load_yaml(folder / "config.yaml").get("data"))
        try:
            self.model = Model(folder)
        except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as error:
            raise DataError(f"{folder}: cannot be opened ({' '.join(str(error).split())})") from None
        self.num_threads = num_threads

    def to_language(self, language: str) -> Graph:
        if self.tags is None:
            return self
        other = copy.copy(self)
        other.tags = self.tags.to(language)
        return other

    def begun(self, lines: Sequence[str]) -> list[str]:
        return list(lines) if self.tags is None else self.tags.begin(lines, "q", range(1, len(lines) + 1))

    def check(self, lines: Sequence[str], options: Options) -> None:
        if options.passes is not None:
            raise ConfigError("passes: this model writes everything in one pass")
        if options.terms:
            raise ConfigError("terms: this model has no use for them")
        for line in self.begun(lines):
            count = len(self.model.encode(line))
            if count > self.model.longest:
                raise DataError(f"{count} tokens, but this model takes at most {self.model.longest}")

    def translate(self, lines: Sequence[str], options: Sequence[Options]) -> list[str]:
        return self.model.translate(self.begun(lines), self.num_threads)


class Run:
    """A run folder, or an export of several passes or of CTranslate2."""

    def __init__(self, folder: Path, num_threads: int) -> None:
        import torch

        from nat.engines.opening import load

        torch.set_num_threads(num_threads)
        self.translator = load(folder)
        model = self.translator.model
        self.has_passes = hasattr(type(model).Decoding, "max_passes")
        self.heeds_terms = "constraints" in model.edits

    def to_language(self, language: str) -> Run:
        if self.translator.tags is None:
            return self
        other = copy.copy(self)
        other.translator = self.translator.to_language(language)
        return other

    def check(self, lines: Sequence[str], options: Options) -> None:
        if options.passes is not None and not self.has_passes:
            raise ConfigError("passes: this model has no number of passes to choose")
        if options.terms and not self.heeds_terms:
            raise ConfigError("terms: this model has no use for them")
        try:
            self.decoding(options)
            self.translator.encode(lines, "q")
            self.translator.wanted([self.asked(line, options) for line in lines], "q")
        except DataError as error:
            raise DataError(str(error).partition(": ")[2].replace(f"{self.translator.folder}", "this model")) from None

    def decoding(self, options: Options) -> Any:
        chosen = {} if options.passes is None else {"max_passes": options.passes}
        return self.translator.decoding(chosen)

    def asked(self, line: str, options: Options) -> Any:
        from nat.decoding.requests import Request

        return Request(line, constraints=options.terms) if options.terms else line

    def translate(self, lines: Sequence[str], options: Sequence[Options]) -> list[str]:
        """Lines of one number of passes go together."""
        from nat.decoding.batch_options import BatchOptions

        results = [""] * len(lines)
        for passes in {option.passes for option in options}:
            chosen = [i for i, option in enumerate(options) if option.passes == passes]
            translated = self.translator.choose_among(
                [self.asked(lines[i], options[i]) for i in chosen],
                decoding=self.decoding(options[chosen[0]]),
                batches=BatchOptions(),
            )
            for i, candidates in zip(chosen, translated, strict=True):
                results[i] = candidates.best
        return results
