"""A trained model ready for use: raw text in, raw text out."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from nat.config import load_yaml, parse
from nat.config import trust as trust_package
from nat.data.batch import Batch
from nat.data.batching import collate
from nat.data.pairs import Pair
from nat.data.points import BadText, beyond
from nat.data.tags import TargetTags
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import Tokenizer
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import Decoded, decode_in_batches
from nat.decoding.candidates import Candidates, Choice, Teacher, choose, resolve_choice
from nat.decoding.graphs import CudaRecorder, GraphedDecoder, check_graphs
from nat.decoding.requests import Request, Sentence, Wanted, encode_request, source_of, text_list
from nat.errors import ConfigError, DataError
from nat.models.contract import TranslationModel
from nat.models.options import DecodingOptions
from nat.runs.device import choose_device
from nat.runs.folder import load_model
from nat.runs.precision import Precision, choose_precision, decoding_in, precision_name

T = TypeVar("T")


def compute_alone() -> None:
    """In a forked process: torch's threads did not come along, and it would wait for them for ever."""
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which forks nothing
    os.register_at_fork(after_in_child=compute_alone)


def load(
    run_folder: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    weights: str | Path | None = None,
    trust: str | Sequence[str] = (),
) -> Translator:
    """The translator of a run folder.

    device: auto, cpu or cuda. precision: of matrix products, fp32, bf16, fp16 or auto (bf16 on a GPU that computes it,
    else fp32). weights: a safetensors file of the run other than its chosen model.safetensors. trust:
    Python packages beside nat whose components the run may name; no other code is imported for it.
    After a fork (gunicorn --preload, multiprocessing) it goes on translating in the child, on one thread unless the
    child calls torch.set_num_threads; on a GPU it does not: load it in the child there.
    Raises DataError if the folder is not a run, or its weights or tokenizer are missing, damaged or do not fit.
    """
    for package in (trust,) if isinstance(trust, str) else trust:
        trust_package(package)
    folder, chosen = Path(run_folder), choose_device(device)
    products = choose_precision(precision, chosen)
    model, tokenizers = load_model(folder, chosen, weights=None if weights is None else Path(weights))
    config = load_yaml(folder / "config.yaml")
    return Translator(
        model,
        tokenizers,
        chosen,
        config=config,
        folder=folder,
        weights=None if weights is None else str(weights),
        precision=products,
    )


class Translator:
    """A model with its tokenizers.

    config: the plain configuration of the run it comes from. folder: that run. weights: its file, where it is not the
    run's chosen one. engine: what computes. package: that it is of. precision: of torch's products. tags: of the
    languages that it writes, which sources begin with. graphs: those of `with_cuda_graphs`. drafter: that of
    `with_drafter`. drafting: its decoding options.
    """

    engine = package = "torch"
    graphs: GraphedDecoder | None = None
    drafter: Translator | None = None
    drafting: DecodingOptions | None = None

    def __init__(
        self,
        model: TranslationModel,
        tokenizers: Tokenizers,
        device: torch.device,
        *,
        config: dict[str, Any],
        folder: Path,
        weights: str | None = None,
        precision: Precision = Precision.FP32,
    ) -> None:
        self.model, self.tokenizers, self.device = model, tokenizers, device
        self.config, self.folder, self.weights = config, folder, weights
        self.precision = precision
        self.tags = TargetTags.of(config.get("data"))

    def in_precision(self, precision: Precision) -> Self:
        """The same translator, of the same model, with products in another precision."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def to_language(self, language: str) -> Self:
        """The same translator, of the same model, into one of the languages that it writes (data.target_tags), by the
        name of its column. Raises ConfigError for another one, and where there is nothing to choose."""
        if self.tags is None:
            target = self.data_option("target", "its own")
            raise ConfigError(f"target={language}: has no effect, {self.folder} writes one language ({target})")
        other = copy.copy(self)
        other.tags = self.tags.to(language)
        if self.drafter is not None and self.drafter.tags is not None:
            other.drafter = self.drafter.to_language(language)
        return other

    def with_cuda_graphs(self, decoding: DecodingOptions) -> Self:
        """The same translator, of the same model, with single passes recorded and replayed, see `nat.decoding.graphs`.
        Raises ConfigError where the device cannot, or the method with these options has none."""
        check_graphs(self.model, decoding, self.device)
        other = copy.copy(self)
        other.graphs = GraphedDecoder(self.model, CudaRecorder())
        return other

    def with_drafter(self, drafter: Translator | None, decoding: DecodingOptions) -> Self:
        """The same translator, of the same model, which only checks what another one drafts: the same translations, see
        `nat.search.drafting`. drafter: None is without. Raises ConfigError where the method, with these options, does
        not check drafts, or the other one writes other tokens; without one, for an option that is of drafts alone."""
        if drafter is None:
            if getattr(decoding, "tolerance", 0) > 0:
                raise ConfigError("decoding.tolerance: has no effect without drafter=RUN_DIR")
            return self
        name = f"drafter={drafter.folder}"
        if not self.model.checks_drafts or self.engine != "torch":
            raise ConfigError(f"{name}: a {type(self.model).__name__} checkpoint in {self.engine} checks no drafts")
        if getattr(decoding, "beam_size", 1) > 1:
            raise ConfigError(f"{name}: has no effect with beam search, drafts are checked in greedy search")
        own, other = self.tokenizers.target, drafter.tokenizers.target
        if (own.model, own.size) != (other.model, other.size):
            raise ConfigError(f"{name}: writes other tokens than {self.folder}, their target tokenizers differ")
        drafted = copy.copy(self)
        drafted.drafter, drafted.drafting = drafter, drafter.decoding({})
        return drafted

    @property
    def computed_in(self) -> str:
        """The precision of translations, by its name; tf32 is fp32 on a GPU that has it."""
        return precision_name(self.precision, self.device)

    @property
    def num_parameters(self) -> int:
        """Of the model, whatever computes it."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def data_option(self, name: str, default: T) -> T:
        """Of the run's own corpus, as it was saved; the default where there is none of its type."""
        data = self.config.get("data")
        value = data.get(name) if isinstance(data, dict) else None
        return value if isinstance(value, type(default)) else default

    def decoding(self, options: dict[str, Any]) -> DecodingOptions:
        """Check decoding options against what this checkpoint's method can do. Raises ConfigError by name, DataError
        if a file that they name cannot be used."""
        kind = type(self.model).Decoding
        known = [f.name for f in dataclasses.fields(kind)]
        for name in options:
            if name not in known:
                raise ConfigError(
                    f"decoding.{name}={options[name]}: a {type(self.model).__name__} checkpoint ({self.folder}) has "
                    f"no such option; it has {', '.join(sorted(known))}"
                )
        decoding = parse(kind, options, "decoding")
        decoding.check_files(vocabularies=self.tokenizers.vocabularies, tokenizer=self.tokenizers.fingerprint)
        return decoding

    def translate(
        self,
        sentences: Sequence[Sentence],
        *,
        batch_size: int = 64,
        max_tokens: int | None = None,
        choose: Choice | str | None = None,
        teacher: Teacher | None = None,
        drafter: Translator | None = None,
        **options: Any,
    ) -> list[str]:
        """The translation of each sentence, in input order; a blank sentence (white space alone) gives an
        empty one.

        sentences: text, or a `nat.Request` with a draft, known words or constraints where the method can edit.
        options: the method's decoding options, for example beam_size=4. choose, teacher, drafter: see `candidates`.
        Raises ConfigError for options that the method does not have, DataError for a sentence that is too long,
        TypeError for a text where a list is meant.
        """
        chosen = self.candidates(
            sentences,
            batch_size=batch_size,
            max_tokens=max_tokens,
            choose=choose,
            teacher=teacher,
            drafter=drafter,
            **options,
        )
        return [item.best for item in chosen]

    def candidates(
        self,
        sentences: Sequence[Sentence],
        *,
        batch_size: int = 64,
        max_tokens: int | None = None,
        choose: Choice | str | None = None,
        teacher: Teacher | None = None,
        drafter: Translator | None = None,
        **options: Any,
    ) -> list[Candidates]:
        """As `translate`, with all num_candidates candidates of each sentence and why the chosen one was chosen.

        choose: first, own, teacher, mbr_chrf or mbr_bleu (`Choice`); None is the teacher's choice where a teacher is
        given, else the first. teacher: another translator (or whatever scores text), for choose="teacher". Noisy
        parallel decoding: `candidates(sentences, num_candidates=10, temperature=1.0, teacher=nat.load(RUN))`. drafter:
        another translator, whose translations this autoregressive one checks, see `with_drafter`. Raises
        ConfigError for a choice without a teacher or without candidates, and for a teacher without effect.
        """
        sentences = text_list("sentences", sentences, (str, Request))
        batches = parse(BatchOptions, {"batch_size": batch_size, "max_tokens": max_tokens})
        decoding = self.decoding(options)
        choice = resolve_choice(
            None if choose is None else parse(Choice, choose, "choose"),
            teacher=teacher is not None,
            num_candidates=decoding.num_candidates,
        )
        if teacher is not None and choice is not Choice.TEACHER:
            raise ConfigError(
                f"teacher: has no effect with choose={choice.value} and num_candidates={decoding.num_candidates}"
            )
        computed = self.with_drafter(drafter, decoding)
        return computed.choose_among(sentences, decoding=decoding, batches=batches, choice=choice, teacher=teacher)

    @torch.inference_mode()
    def choose_among(
        self,
        sentences: Sequence[Sentence],
        *,
        decoding: DecodingOptions,
        batches: BatchOptions,
        choice: Choice = Choice.FIRST,
        teacher: Teacher | None = None,
        advance: Callable[[int], None] = lambda sentences: None,
    ) -> list[Candidates]:
        """As `candidates`, with checked options; `advance` hears of every batch's size."""
        decoded = self.decode(sentences, decoding=decoding, batches=batches, advance=advance)
        written = self.sides(decoding)[1]
        texts = iter(written.decode([ids for item in decoded for ids in item.tokens]))
        candidates = [Candidates.of(item, [next(texts) for _ in item.tokens]) for item in decoded]
        sources = [source_of(sentence) for sentence in sentences]
        return choose(candidates, sources, choice=choice, teacher=teacher, batches=batches)

    def decode(
        self,
        sentences: Sequence[Sentence],
        *,
        decoding: DecodingOptions,
        batches: BatchOptions,
        advance: Callable[[int], None] = lambda sentences: None,
    ) -> list[Decoded]:
        """Token ids and scores of all translations, in input order; `advance` hears of every batch's size."""
        rows = self.encode([source_of(sentence) for sentence in sentences], "the input", decoding=decoding)
        wanted = self.wanted(sentences, "the input", decoding=decoding)
        drafts = self.drafts([source_of(sentence) for sentence in sentences], batches)
        if drafts is not None:
            wanted = [Wanted.draft_of(draft or []) for draft in drafts]
        results: list[Decoded | None] = [None] * len(rows)
        answers = decode_in_batches(
            self.model,
            rows,
            decoding=decoding,
            batches=batches,
            device=self.device,
            precision=self.precision,
            wanted=wanted,
            graphs=self.graphs,
        )
        for indices, decoded in answers:
            for index, item in zip(indices, decoded, strict=True):
                results[index] = replace(item, undrafted=drafts is not None and drafts[index] is None)
            advance(len(indices))
        return [item for item in results if item is not None]

    def drafts(self, sources: Sequence[str], batches: BatchOptions) -> list[list[int] | None] | None:
        """What the drafter writes of each source; None for one that is too long for it, and without a drafter."""
        drafter = self.drafter
        if drafter is None or self.drafting is None:
            return None
        rows = drafter.sides(self.drafting)[0].encode(list(sources))
        taken = [i for i, row in enumerate(rows) if drafter.too_long(row) is None]
        written = drafter.decode([sources[i] for i in taken], decoding=self.drafting, batches=batches)
        found: dict[int, list[int]] = {i: item.tokens[0] for i, item in zip(taken, written, strict=True)}
        return [found.get(i) for i in range(len(rows))]

    def sides(self, decoding: DecodingOptions | None = None) -> tuple[Tokenizer, Tokenizer]:
        """The tokenizers of what is read and of what is written."""
        sides = self.tokenizers.source, self.tokenizers.target
        return sides[::-1] if decoding is not None and decoding.reverse else sides

    def wanted(
        self, sentences: Sequence[Sentence], name: str, *, decoding: DecodingOptions | None = None
    ) -> list[Wanted] | None:
        """What is asked of the translations, in ids; None where it is nothing. Raises ConfigError for what the method
        cannot do, DataError, naming the text and the line, for what cannot be kept."""
        requests = [sentence for sentence in sentences if not isinstance(sentence, str)]
        fields = frozenset[str]().union(*(request.fields for request in requests))
        for what in sorted(fields - self.model.edits):
            able = f"; it heeds {', '.join(sorted(self.model.edits))}" if self.model.edits else ""
            raise ConfigError(
                f"{what}: a {type(self.model).__name__} checkpoint ({self.folder}) has no use for it{able}"
            )
        if not fields:
            return None
        wanted: list[Wanted] = []
        limit, total = self.model.max_target_length, self.model.max_total_length
        for line, sentence in enumerate(sentences, start=1):
            where = f"{name}, line {line}"
            wanted.append(encode_request(sentence, self.sides(decoding)[1], where))
            number = wanted[-1].num_tokens
            if limit is not None and number > limit:
                raise DataError(
                    f"{where}: draft, known words and constraints have {number} tokens, but {self.folder} writes at "
                    f"most {limit} ({self.model.limiting})"
                )
            if total is not None:
                both = number + len(self.sides(decoding)[0].encode([source_of(sentence)])[0])
                if both > total:
                    raise DataError(
                        f"{where}: {both} tokens with draft, known words and constraints, but {self.folder} takes at "
                        f"most {total} of both sides ({self.model.limiting})"
                    )
        return wanted

    @property
    def source_limits(self) -> list[tuple[int, str]]:
        """The most tokens of a source, and who takes no more, in words."""
        limit = self.model.max_source_length
        return [] if limit is None else [(limit, f"{self.folder} takes at most {limit} ({self.model.limiting})")]

    def encode(
        self,
        sentences: Sequence[str],
        name: str,
        *,
        decoding: DecodingOptions | None = None,
        lines: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Token ids of sentences to translate. lines: their numbers; None: 1, 2 ... Raises DataError, naming the text
        and the line, for one that is too long for the model, or no text of its kind, or does not say which language is
        to be written where it must."""
        numbers = lines or range(1, len(sentences) + 1)
        tags = None if decoding is not None and decoding.reverse else self.tags
        begun = list(sentences) if tags is None else tags.begin(sentences, name, numbers)
        try:
            rows = self.sides(decoding)[0].encode(begun)
        except BadText as error:
            raise DataError(f"{name}, line {numbers[error.row]}: {error}") from None
        for number, row in zip(numbers, rows, strict=True):
            if (reason := self.too_long(row)) is not None:
                raise DataError(f"{name}, line {number}: {reason}")
        return rows

    def too_long(self, row: Sequence[int]) -> str | None:
        """Why a source of these tokens cannot be translated; None where it can."""
        for limit, taker in self.source_limits:
            if len(row) > limit:
                return f"{len(row)} tokens, but {taker}"
        most = self.model.max_points
        return beyond(len(row), most) if most is not None and len(row) > most else None

    @torch.inference_mode()
    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, batch_size: int = 64, max_tokens: int | None = None
    ) -> list[float]:
        """Log-probability of each target given its source (natural logarithm, whole sentence), of a diffusion model a
        lower bound on it; -inf for a pair that the model cannot produce, for example a longer target than it has
        positions for.

        Raises ConfigError if the method cannot score, DataError if the lists differ in length or a source is blank
        or too long, TypeError for a text where a list is meant.
        """
        sources, targets = text_list("sources", sources), text_list("targets", targets)
        batches = parse(BatchOptions, {"batch_size": batch_size, "max_tokens": max_tokens})
        if len(sources) != len(targets):
            raise DataError(f"score: {len(sources)} sources but {len(targets)} targets")
        source_rows = self.encode(sources, "score")
        try:
            target_rows = self.tokenizers.target.encode(list(targets))
        except BadText as error:
            raise DataError(f"score: target {error.row + 1}: {error}") from None
        for i, row in enumerate(source_rows):
            if not row:
                raise DataError(f"score: source {i + 1} is empty")
        results = [0.0] * len(source_rows)
        widest: dict[str, int] = {}  # the targets of a source stay together, for a model may encode it once for all
        for source, *rows in zip(sources, source_rows, target_rows, strict=True):
            widest[source] = max(widest.get(source, 0), sum(map(len, rows)))
        for chosen in batches.cut([widest[source] for source in sources]):
            batch = collate([Pair(source_rows[i], target_rows[i]) for i in chosen]).to(self.device)
            with decoding_in(self.precision, self.device):
                scores = self._score(batch)
            for index, value in zip(chosen, scores, strict=True):
                results[index] = value
        return results

    def _score(self, batch: Batch) -> list[float]:
        fits = self.model.learnable(batch)
        if bool(fits.all()):
            return self.model.score(batch).tolist()
        scores = torch.full((len(batch),), -torch.inf, device=fits.device)
        if bool(fits.any()):
            scores[fits] = self.model.score(batch.select(fits)).to(scores)
        return scores.tolist()
