"""Validation decodes: checkpoints are chosen by what a reader would see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import numpy as np
import torch

from nat.config import option
from nat.data.batching import collate
from nat.data.cache import digest
from nat.data.tokenized import TokenizedCorpus
from nat.data.tokenizer import Tokenizer, Tokenizers
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import Decoded, decode_in_batches
from nat.errors import ConfigError
from nat.models.contract import TranslationModel
from nat.models.options import DecodingOptions
from nat.nn.rng import set_seed
from nat.runs.precision import AnyPrecision, Precision, choose_precision, decoding_in
from nat.scoring.polygons import score_points
from nat.scoring.scores import score_corpus
from nat.scoring.tokenization import BleuTokenizer, tokenizer_of
from nat.training.objective import Totals, objective

# What a pass did to a position, beside what it kept or wrote: predicted, and to be predicted again; new; taken out.
MARKS = {"masked": "[{}]", "inserted": "{{{}}}", "deleted": "~{}~"}

SCORES = ("bleu", "chrf", "length_ratio", "repetition_rate", "bleu_signature", "chrf_signature")
NOISE = 0  # the update of which every validation has the noise; none of training's


class Metric(Enum):
    BLEU = "bleu"
    CHRF = "chrf"
    LOSS = "loss"
    ACCURACY = "accuracy"


@dataclass(frozen=True)
class ValidationConfig:
    every: int = option(
        1000, "updates between validations; the last update is always validated", minimum=1, maximum=1_000_000_000
    )
    max_sentences: int | None = option(None, "decode only the first n sentences of the split; null: all", minimum=1)
    batch_size: int = option(64, "sentences in a decoding batch, at most", minimum=1, maximum=1_000_000)
    max_tokens: int | None = option(
        None, "rows x padded source length of a decoding batch, at most; null: no limit", minimum=1
    )
    precision: AnyPrecision = option(
        AnyPrecision.FP32, "of matrix products: fp32, bf16, fp16 or auto (bf16 on a GPU that computes it, else fp32)"
    )
    metric: Metric = option(Metric.BLEU, "what chooses the best checkpoint: bleu, chrf or loss; of points accuracy")
    bleu_tokenizer: BleuTokenizer | None = option(
        None, "words of BLEU: 13a, intl, zh, ja-mecab, ko-mecab, char, none; null: as the references' script needs"
    )
    keep_best: int = option(5, "best checkpoints kept, to be averaged in the end", minimum=1, maximum=10_000)
    patience: int | None = option(None, "stop after n validations without a new best; null: never", minimum=1)
    num_samples: int = option(4, "sample translations for TensorBoard and the run folder", minimum=0)
    decoding: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "decoding options of the model's method; {}: its defaults"}
    )

    def __post_init__(self) -> None:
        if self.bleu_tokenizer is not None:
            self.bleu_tokenizer.check()

    @property
    def batches(self) -> BatchOptions:
        return BatchOptions(self.batch_size, self.max_tokens)


@dataclass(frozen=True)
class Validated:
    """Scores of one validation. values: plain numbers and signatures, for metrics.jsonl. samples: source,
    reference and translation of the first sentences; also passes, where the method keeps them: the pieces of each pass
    over the canvas, with MARKS."""

    values: dict[str, float | str]
    samples: list[dict[str, Any]]

    @property
    def scores(self) -> str:
        """The main ones, for people."""
        if "accuracy" in self.values:
            return f"accuracy {self.values['accuracy']:.2f}"
        return f"BLEU {self.values['bleu']:.2f}, chrF {self.values['chrf']:.2f}"


class Validator:
    """Decodes a split and scores it, on the main rank. A source with several targets is decoded once and scored against
    all of them; the losses are those of every pair."""

    def __init__(
        self,
        config: ValidationConfig,
        *,
        corpus: TokenizedCorpus,
        tokenizers: Tokenizers,
        decoding: DecodingOptions,
        device: torch.device,
    ) -> None:
        self.config, self.tokenizers, self.decoding, self.device = config, tokenizers, decoding, device
        self.precision = choose_precision(config.precision, device, option="validation.precision")
        if config.metric is Metric.ACCURACY and not tokenizers.vocabularies.points:
            raise ConfigError("validation.metric=accuracy: is of points (data.tokenizer.kind=points); bleu, chrf, loss")
        sentences = corpus.sentences[: config.max_sentences]
        pairs = corpus.pairs(np.concatenate(sentences))
        self.pairs = [pairs[sentence[0] : sentence[-1] + 1] for sentence in sentences]  # of each source, decoded once
        self.sources, self.references = corpus.references(sentences)
        self.tokenizer = config.bleu_tokenizer or tokenizer_of(self.references)
        how = [config.metric.value, str(self.tokenizer), str(config.max_sentences), repr(decoding)]
        how += [] if self.precision is Precision.FP32 else [self.precision.value]
        self.measure = digest(corpus.fingerprint, *how)  # key of what a score is of

    def __call__(self, model: TranslationModel, *, limit: int | None = None) -> Validated:
        """Decode and score; `limit` looks at the first sentences only."""
        count = len(self.pairs) if limit is None else min(limit, len(self.pairs))
        decoded = self._decode(model, count, self.decoding)
        outputs = self.tokenizers.target.decode([item.tokens[0] for item in decoded])
        scores = score_corpus(outputs, self.references[:count], tokenizer=self.tokenizer)
        values: dict[str, float | str] = {name: getattr(scores, name) for name in SCORES}
        if self.tokenizers.vocabularies.points:
            of_points = score_points(self.sources[:count], outputs, self.references[:count])
            values |= {name: value for name, value in of_points.items() if isinstance(value, float)}
        values |= self._losses(model, count)
        return Validated(values, self._samples(model, outputs[: self.config.num_samples]))

    def _decode(self, model: TranslationModel, count: int, decoding: DecodingOptions) -> list[Decoded]:
        """The first sentences, in their order."""
        rows = [pairs[0].source for pairs in self.pairs[:count]]
        decoded: dict[int, Decoded] = {}
        for indices, items in decode_in_batches(
            model, rows, decoding=decoding, batches=self.config.batches, device=self.device, precision=self.precision
        ):
            decoded |= zip(indices, items, strict=True)
        return [decoded[i] for i in range(count)]

    def _samples(self, model: TranslationModel, outputs: Sequence[str]) -> list[dict[str, Any]]:
        """The first sentences and their translations, which are decoded again where their passes can be kept."""
        samples: list[dict[str, Any]] = [
            {"source": self.sources[i], "reference": self.references[i], "translation": output}
            for i, output in enumerate(outputs)
        ]
        if not any(f.name == "history" for f in fields(self.decoding)):
            return samples
        decoding = replace(self.decoding, history=True)  # type: ignore[call-arg]
        for sample, item in zip(samples, self._decode(model, len(samples), decoding), strict=True):
            passes = item.history[0] if item.history else []
            sample["passes"] = [marked(one_pass, self.tokenizers.target) for one_pass in passes]
        return samples

    @torch.inference_mode()
    def _losses(self, model: TranslationModel, count: int) -> dict[str, float]:
        """Means of the loss terms, and training's objective as `loss`, without dropout and with the same noise at every
        validation; nothing where the model has no loss on these pairs. Raises ConfigError where the best checkpoint is
        chosen by it."""
        usable = [pair for pairs in self.pairs[:count] for pair in pairs if pair.source and pair.target]
        lengths = [len(pair.source) + len(pair.target) for pair in usable]
        num_tokens = sum(len(pair.target) for pair in usable)
        training, totals, loss = model.training, Totals(), 0.0
        model.eval()
        for number, chosen in enumerate(self.config.batches.cut(lengths)):
            set_seed("validation", number)
            with decoding_in(self.precision, self.device):
                terms = model.loss(collate([usable[i] for i in chosen]).to(self.device), update=NOISE)
            totals.add(terms)
            loss += objective(terms, num_tokens).item() if terms else 0.0
        model.train(training)
        means = totals.means()
        if usable and not means:
            if self.config.metric is Metric.LOSS:
                raise ConfigError(
                    f"validation.metric=loss: {type(model).__name__} has no loss on validation pairs without "
                    "fertilities; allowed are bleu, chrf"
                )
            return {}
        return means | {"loss": loss}


def marked(one_pass: Mapping[str, Sequence[Any]], tokenizer: Tokenizer) -> str:
    """The pieces of a pass, see `Decoded.history`, with MARKS for what it did to them."""
    pieces = tokenizer.pieces(one_pass["tokens"])
    return " ".join(MARKS.get(fate, "{}").format(piece) for piece, fate in zip(pieces, one_pass["fate"], strict=True))
