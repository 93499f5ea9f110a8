"""CTranslate2 as the engine of a teacher of transformers, by CTranslate2's own converter.

https://opennmt.net/CTranslate2/guides/transformers.html. What was converted lies in nat's cache, by the content of the
teacher's files: a large one takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nat.data.cache import cache_directory, cached, digest
from nat.data.cache_contents import Kind
from nat.data.lines import file_digest
from nat.decoding.batched import Decoded
from nat.decoding.translator import Translator
from nat.engines import ctranslate2
from nat.engines.base import ComputeType
from nat.engines.ctranslate2 import FOLDER, PACKAGES, QUANTIZATION, CTranslate2Translator, longest_source
from nat.engines.hub_teacher import HubModel
from nat.errors import ConfigError, DataError
from nat.models.options import DecodingOptions

__all__ = ["PACKAGES", "check", "longest_source", "open_written", "write"]


class HubCTranslate2(CTranslate2Translator):
    """Such a teacher, whose search runs in CTranslate2. Where a translation begins with a language (M2M100, NLLB), the
    log-probability of that is part of the scores."""

    def __init__(self, translator: Translator, kind: ComputeType, engine: Any) -> None:
        super().__init__(translator, kind, engine)
        assert isinstance(self.model, HubModel)
        self.names = token_names(self.model.target.tokenizer, self.model.target.num_ids)
        self.numbers = {name: i for i, name in enumerate(self.names)}

    def _start(self, rows: list[list[int]], decoding: DecodingOptions) -> Callable[[], list[Decoded]]:
        """The limits of length are those of `HubModel`: all rows of a batch are of one length."""
        assert isinstance(decoding, HubModel.Decoding)
        assert isinstance(self.model, HubModel)
        model, limit = self.model, self.model.limit(len(rows[0]), decoding)
        alpha = decoding.length_penalty if decoding.beam_size > 1 else 0.0
        begin = [self.names[i] for i in model.language]
        answers = self._engine.translate_batch(
            [[self.names[i] for i in ids] for ids in model.complete(rows)],
            target_prefix=[begin] * len(rows) if begin else None,
            asynchronous=True,
            beam_size=decoding.beam_size,
            num_hypotheses=decoding.num_candidates,
            length_penalty=alpha,
            max_input_length=0,
            max_decoding_length=limit + 2,
            min_decoding_length=0,
            disable_unk=not decoding.allow_unknown,
            return_scores=True,
            return_end_token=True,
        )
        return lambda: [self._unpacked(answer.result(), limit, alpha) for answer in answers]

    def _unpacked(self, answer: Any, limit: int, alpha: float) -> Decoded:
        """The engine divides log-probabilities by length^alpha, which is undone here."""
        assert isinstance(self.model, HubModel)
        model, start = self.model, -1  # what decoding starts from: `HubModel.ids` reads what is behind it
        rows = [[start, *(self.numbers[name] for name in names)] for names in answer.hypotheses]
        scores = [score * len(row[1:]) ** alpha for row, score in zip(rows, answer.scores, strict=True)]
        ids = [model.ids(row, limit) for row in rows]
        return Decoded(ids, scores, max(map(len, ids)) + 1, model.is_cut(rows[0], limit))


def check(translator: Translator) -> None:
    """Raises ConfigError where the package is missing."""
    ctranslate2.import_package()


def write(translator: Translator, folder: Path, kind: ComputeType) -> None:
    """Raises ConfigError for a model that the converter does not know."""
    parts = (f"{path.name}:{file_digest(path)}" for path in sorted(translator.folder.iterdir()) if path.is_file())
    key = digest("1", kind.value, version(FOLDER), version("transformers"), *parts)
    made = cached(
        cache_directory(None),
        f"{Kind.ENGINES.value}/{key}",
        build=lambda part: convert(translator, part, kind),
        load=whole,
    )
    (folder / FOLDER).symlink_to(made.resolve(), target_is_directory=True)


def convert(translator: Translator, folder: Path, kind: ComputeType) -> None:
    """Into `folder`, which exists. Raises ConfigError for a model that the converter does not know."""
    from ctranslate2.converters import TransformersConverter

    assert isinstance(translator.model, HubModel)
    count = translator.model.target.num_ids

    class Converter(TransformersConverter):  # type: ignore[misc]
        """What it misses in models and tokenizers of transformers 5."""

        def load_model(self, model_class: Any, name: str, **options: Any) -> Any:
            model = super().load_model(model_class, name, **options)
            if model.config.model_type == "mbart":
                model.config.normalize_before = True
            return model

        def load_tokenizer(self, tokenizer_class: Any, name: str, **options: Any) -> Any:
            tokenizer = super().load_tokenizer(tokenizer_class, name, **options)
            names = token_names(tokenizer, count)
            tokenizer.get_vocab, tokenizer.num_madeup_words = lambda: {name: i for i, name in enumerate(names)}, 0
            return tokenizer

    try:
        converter = Converter(str(translator.folder))
        converter.convert(
            str(folder), quantization=None if kind is ComputeType.FP32 else QUANTIZATION[kind], force=True
        )
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"engine=ctranslate2: {translator.folder}: {' '.join(str(error).split())[:200]}") from None


def token_names(tokenizer: Any, count: int) -> list[str]:
    """Of each of the model's `count` ids. Languages are missing from the vocabulary that transformers 5 gives, and what
    only fills the matrix up has no name."""
    names = dict(map(reversed, tokenizer.get_vocab().items()))
    names |= {i: str(tokenizer.convert_ids_to_tokens(i)) for i in range(len(tokenizer)) if i not in names}
    return [names.get(i, f"madeupword{i}") for i in range(count)]


def whole(folder: Path) -> Path:
    """A folder that was converted. Raises DataError where it is damaged."""
    if not (folder / "model.bin").is_file() or not list(folder.glob("*vocabulary*")):
        raise DataError(f"{folder}: damaged or unreadable")
    return folder


def open_written(translator: Translator, folder: Path, kind: ComputeType) -> HubCTranslate2:
    return HubCTranslate2(translator, kind, ctranslate2.open_engine(translator, folder, kind))
