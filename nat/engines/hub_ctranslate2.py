"""CTranslate2 as the engine of a teacher of transformers, by CTranslate2's own converter.

https://opennmt.net/CTranslate2/guides/transformers.html
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nat.decoding.batched import Decoded
from nat.decoding.translator import Translator
from nat.engines import ctranslate2
from nat.engines.base import ComputeType
from nat.engines.ctranslate2 import FOLDER, PACKAGES, QUANTIZATION, CTranslate2Translator, longest_source
from nat.engines.hub_teacher import HubModel
from nat.errors import ConfigError
from nat.models.options import DecodingOptions

__all__ = ["PACKAGES", "check", "longest_source", "open_written", "write"]


class HubCTranslate2(CTranslate2Translator):
    """Such a teacher, whose search runs in CTranslate2."""

    def _start(self, rows: list[list[int]], decoding: DecodingOptions) -> Callable[[], list[Decoded]]:
        """The limits of length are those of `HubModel`: all rows of a batch are of one length."""
        assert isinstance(decoding, HubModel.Decoding)
        assert isinstance(self.model, HubModel)
        model, limit = self.model, self.model.limit(len(rows[0]), decoding)
        alpha = decoding.length_penalty if decoding.beam_size > 1 else 0.0
        begin = model.target.tokenizer.convert_ids_to_tokens(model.forced)
        answers = self._engine.translate_batch(
            [model.source.tokenizer.convert_ids_to_tokens(ids) for ids in model.complete(rows)],
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
        model, numbers = self.model, self.model.target.tokenizer.convert_tokens_to_ids
        rows = [[-1, *numbers(names)] for names in answer.hypotheses]  # behind what decoding starts from
        scores = [score * len(row[1:]) ** alpha for row, score in zip(rows, answer.scores, strict=True)]
        ids = [model.ids(row, limit) for row in rows]
        return Decoded(ids, scores, max(map(len, ids)) + 1, model.is_cut(rows[0], limit))


def check(translator: Translator) -> None:
    """Raises ConfigError where the package is missing."""
    ctranslate2.import_package()


def write(translator: Translator, folder: Path, kind: ComputeType) -> None:
    """Raises ConfigError for a model that the converter does not know."""
    from ctranslate2.converters import TransformersConverter

    try:
        converter = TransformersConverter(str(translator.folder))
        converter.convert(str(folder / FOLDER), quantization=None if kind is ComputeType.FP32 else QUANTIZATION[kind])
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"engine=ctranslate2: {translator.folder}: {' '.join(str(error).split())[:200]}") from None


def open_written(translator: Translator, folder: Path, kind: ComputeType) -> HubCTranslate2:
    return HubCTranslate2(translator, kind, ctranslate2.open_engine(translator, folder, kind))
