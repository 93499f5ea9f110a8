"""Sequence-to-sequence models of the package transformers as teachers, named hf:NAME_OR_FOLDER?source=xx&target=yy.

They translate and score like a run of nat, with their own tokenizers; a corpus that they distil is text, and its
student trains a tokenizer of its own. Marian, M2M100, NLLB, mBART and T5: whatever `AutoModelForSeq2SeqLM` opens.
source, target: codes of the languages as the model's tokenizer names them, where it needs them (NLLB: eng_Latn);
prefix: what stands before each sentence (T5: "translate English to German: "). Weights must be safetensors, and no code
of a repository is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nat.config import nearest, option
from nat.data.batch import Batch, Source, Tokens
from nat.data.filters import is_blank
from nat.data.ragged import Ragged
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import NUM_SYMBOLS, SYMBOL_TEXT, Symbol, Vocabularies
from nat.decoding.translator import Translator
from nat.errors import ConfigError, DataError
from nat.models.contract import LossTerm, Translation, TranslationModel
from nat.models.options import BeamOptions, DecodingOptions
from nat.nn.limits import LengthLimits
from nat.nn.rng import seed_for
from nat.runs.locations import download, reason_of
from nat.runs.precision import Precision

PREFIX, OPTIONS = "hf:", ("source", "target", "prefix")
FILES = ("*.json", "*.txt", "*.spm", "*.model", "*.safetensors")
PAD = int(Symbol.PAD)


@dataclass(frozen=True)
class Languages:
    source: str | None = None
    target: str | None = None
    prefix: str = ""


@dataclass(frozen=True, eq=False)
class HubTokenizer:
    """One side of a model's own tokenizer; ids are its ids, behind nat's special symbols. num_ids: of the model."""

    savable: ClassVar[bool] = False

    tokenizer: Any
    languages: Languages
    is_target: bool
    num_ids: int

    @property
    def model(self) -> bytes:
        """What tells it from others."""
        key = (self.tokenizer.get_vocab(), type(self.tokenizer).__name__, self.languages, self.is_target)
        return hashlib.blake2b(repr(key).encode()).digest()

    @cached_property
    def affixes(self) -> tuple[list[int], list[int]]:
        """What the tokenizer adds before and behind a sentence: the model's ids."""
        bare, whole = (self.tokenizer("a", add_special_tokens=added).input_ids for added in (False, True))
        first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:first], whole[first + len(bare) :]

    @property
    def size(self) -> int:
        return NUM_SYMBOLS + max(self.num_ids, len(self.tokenizer))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        filled = [text for text in texts if not is_blank(text)]
        if self.is_target:
            ids = self.tokenizer(text_target=filled, add_special_tokens=False).input_ids if filled else []
        else:
            begun = [f"{self.languages.prefix}{text}" for text in filled]
            ids = self.tokenizer(begun, add_special_tokens=False).input_ids if filled else []
        rows = iter(ids)
        return [[] if is_blank(text) else [self.to_nat(i) for i in next(rows)] for text in texts]

    def to_nat(self, number: int) -> int:
        return int(Symbol.UNK) if number == self.tokenizer.unk_token_id else number + NUM_SYMBOLS

    def to_hub(self, number: int) -> int:
        return int(self.tokenizer.unk_token_id) if number < NUM_SYMBOLS else number - NUM_SYMBOLS

    def encode_many(self, texts: Sequence[str]) -> Ragged:
        return Ragged.from_lists(self.encode(texts))

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        kept = [[self.to_hub(i) for i in row if i >= NUM_SYMBOLS or i == int(Symbol.UNK)] for row in rows]
        return [self.tokenizer.decode(row, skip_special_tokens=False) if row else "" for row in kept]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        name = self.tokenizer.convert_ids_to_tokens
        return [SYMBOL_TEXT[i] if i < NUM_SYMBOLS else str(name(i - NUM_SYMBOLS)) for i in map(int, ids)]


class HubModel(TranslationModel):
    """Such a model as nat asks it. Rows are worked on with those of their length, so that padding changes nothing."""

    num_ends: ClassVar[int] = 1

    @dataclass(frozen=True)
    class Decoding(BeamOptions):
        length_penalty: float = option(
            1.0, "hypotheses are ranked by log-probability over length to the power of this", minimum=0, maximum=100
        )
        max_length_factor: float = option(
            2.0, "a translation has at most factor * S + offset tokens", minimum=0, maximum=100
        )
        max_length_offset: int = option(20, "see max_length_factor", minimum=1, maximum=100_000)

    def __init__(self, model: Any, source: HubTokenizer, target: HubTokenizer) -> None:
        super().__init__(Vocabularies(source.size, target.size, shared=False))
        self.model, self.source, self.target = model, source, target
        special = {*target.tokenizer.all_special_ids, *self.forced} - {target.tokenizer.unk_token_id}
        self.written = set(target.tokenizer.get_vocab().values()) - special  # not codes of languages, for example

    @property
    def length_limits(self) -> LengthLimits:
        """Less what the tokenizer adds: the end, and a language before it."""
        most = getattr(self.model.config, "max_position_embeddings", None) or getattr(
            self.model.config, "n_positions", None
        )
        return LengthLimits() if most is None else LengthLimits(max(1, most - 2), max(1, most - 2))

    @property
    def limiting(self) -> str:
        return "its positions"

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """Raises ConfigError."""
        raise ConfigError("a model of transformers is a teacher; nat does not train it")

    def decode(self, source: Source, *, decoding: DecodingOptions) -> Translation:
        assert isinstance(decoding, HubModel.Decoding)
        source = source.compact()
        rows = id_lists(source)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: list[tuple[list[list[int]], bool]] = [([], False)] * len(rows)
        for _, same in groupby(order, key=lambda i: len(rows[i])):
            chosen = list(same)
            for part in [[i] for i in chosen] if decoding.is_random else [chosen]:
                for i, answer in zip(part, self._written([rows[i] for i in part], decoding), strict=True):
                    found[i] = answer
        return self._translation(source, found, decoding)

    def _written(self, rows: list[list[int]], decoding: Decoding) -> list[tuple[list[list[int]], bool]]:
        """Of sources of one length: the ids of each candidate, and whether the first one was cut."""
        number, limit = decoding.num_candidates, self.limit(len(rows[0]), decoding)
        options: dict[str, Any] = {"num_beams": decoding.beam_size, "do_sample": False}
        if decoding.temperature is not None:
            torch.manual_seed(seed_for(decoding.seed, *rows[0]))
            options = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0, "num_beams": 1}
        if decoding.beam_size > 1:
            options |= {"length_penalty": decoding.length_penalty}
        if not decoding.allow_unknown and self.target.tokenizer.unk_token_id is not None:
            own = self.model.generation_config.bad_words_ids or []
            options["bad_words_ids"] = [*own, [self.target.tokenizer.unk_token_id]]
        written = self.model.generate(
            input_ids=self._inputs(rows),
            num_return_sequences=number,
            max_new_tokens=limit + 2,
            forced_eos_token_id=None,
            **options,
            decoder_start_token_id=self.start,
            forced_bos_token_id=self.forced[0] if self.forced else None,
        ).view(len(rows), number, -1)
        return [([self.ids(row, limit) for row in one], self.is_cut(one[0], limit)) for one in written.tolist()]

    def limit(self, length: int, decoding: Decoding) -> int:
        limit = int(length * decoding.max_length_factor) + decoding.max_length_offset
        return limit if self.max_target_length is None else min(limit, self.max_target_length)

    @property
    def language(self) -> list[int]:
        """Of the target, where the model is told one."""
        language = self.target.languages.target
        return [] if language is None else [language_id(self.target.tokenizer, language)]

    @property
    def start(self) -> int:
        """What decoding starts from: a symbol of the model's own; the language, where there is none (mBART-25)."""
        configured, tokenizer = self.model.config.decoder_start_token_id, self.target.tokenizer
        own = configured in (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id)
        return int(configured if own or not self.language else self.language[0])

    @property
    def forced(self) -> list[int]:
        """What a target begins with behind it: its language, where that is told and comes there."""
        return [number for number in self.language if number != self.start]

    def ids(self, row: list[int], limit: int) -> list[int]:
        """nat's ids of what was generated, without the model's special symbols."""
        plain = [number for number in self._until_end(row) if number in self.written]
        return [self.target.to_nat(number) for number in plain][:limit]

    def is_cut(self, row: list[int], limit: int) -> bool:
        return self.target.tokenizer.eos_token_id not in row[1:] or len(self._until_end(row)) > limit + 2

    def _until_end(self, row: list[int]) -> list[int]:
        """Behind the symbol that decoding starts from."""
        end = self.target.tokenizer.eos_token_id
        return row[1 : row.index(end, 1)] if end in row[1:] else row[1:]

    def _translation(
        self, source: Source, found: list[tuple[list[list[int]], bool]], decoding: Decoding
    ) -> Translation:
        device, number = source.tokens.device, decoding.num_candidates
        width = max(1, *(len(ids) for candidates, _ in found for ids in candidates))
        tokens = torch.full((len(found), number, width), PAD)
        for place, (candidates, _) in enumerate(found):
            for n, ids in enumerate(candidates):
                tokens[place, n, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        lengths = torch.tensor([[len(ids) for ids in candidates] for candidates, _ in found])
        valid = torch.arange(width) < lengths[:, :, None]  # (B, N, T)
        pairs = [(row, ids) for row, (candidates, _) in zip(id_lists(source), found, strict=True) for ids in candidates]
        return Translation(
            tokens.to(device),
            valid.to(device),
            self._scores(pairs).view(len(found), number),
            passes=lengths.amax(dim=1).to(device) + 1,
            truncated=torch.tensor([cut for _, cut in found], device=device),
        )

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """log p(y, end | x), one teacher-forced pass."""
        batch = batch.compact()
        return self._scores(list(zip(id_lists(batch.source), id_lists(batch.target), strict=True)))

    def _scores(self, pairs: list[tuple[list[int], list[int]]]) -> Float[Tensor, " N"]:
        scores: list[Tensor] = [torch.zeros(())] * len(pairs)
        shapes = [(len(row), len(ids)) for row, ids in pairs]
        for _, same in groupby(sorted(range(len(pairs)), key=shapes.__getitem__), key=shapes.__getitem__):
            chosen = list(same)
            values = self._scored([pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen])
            for i, value in zip(chosen, values.unbind(), strict=True):
                scores[i] = value
        return torch.stack(scores)

    def _scored(self, rows: list[list[int]], targets: list[list[int]]) -> Float[Tensor, " N"]:
        """Of pairs of one shape. What stands before the target, its language, is given and counts for nothing."""
        hub, tokenizer = self.target, self.target.tokenizer
        ids = [[self.start, *self.forced, *map(hub.to_hub, row), tokenizer.eos_token_id] for row in targets]
        given = torch.tensor(ids, device=self.model.device)
        logits = self.model(input_ids=self._inputs(rows), decoder_input_ids=given[:, :-1]).logits  # (N, L, V)
        log_probs = F.log_softmax(logits.float(), dim=-1).gather(2, given[:, 1:, None]).squeeze(2)
        return log_probs[:, len(self.forced) :].sum(dim=1)

    def _inputs(self, rows: list[list[int]]) -> Tensor:
        return torch.tensor(self.complete(rows), device=self.model.device)

    def complete(self, rows: list[list[int]]) -> list[list[int]]:
        """The model's ids, with what the tokenizer adds: the end, and the language where the model reads it."""
        before, after = self.source.affixes
        return [[*before, *(self.source.to_hub(i) for i in row), *after] for row in rows]


def id_lists(side: Tokens) -> list[list[int]]:
    """The ids of each right-padded row, without padding."""
    return [row[:length] for row, length in zip(side.tokens.tolist(), side.lengths.tolist(), strict=True)]


def language_id(tokenizer: Any, code: str) -> int:
    """Raises ConfigError for a language that the tokenizer does not have."""
    if hasattr(tokenizer, "get_lang_id"):
        known = list(getattr(tokenizer, "lang_code_to_token", {}))
        if known and code not in known:
            raise ConfigError(f"target={code}: no language of this model, {nearest(code, known)}")
        return int(tokenizer.get_lang_id(code))
    number = tokenizer.convert_tokens_to_ids(code)
    if number is None or number == tokenizer.unk_token_id:
        raise ConfigError(f"target={code}: no language of this model")
    return int(number)


def open_hub_teacher(name: str, device: torch.device, precision: Precision) -> Translator:
    """name: hf:NAME_OR_FOLDER?source=xx&target=yy&prefix=... Raises ConfigError where the package is missing or an
    option is none, DataError where there is no such model, or it is none that translates."""
    if find_spec("transformers") is None:
        raise ConfigError(f"{name}: the package transformers is missing; pip install 'nat-translation[hf]'")
    place, _, query = name.removeprefix(PREFIX).partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    for key in given:
        if key not in OPTIONS:
            raise ConfigError(f"{name}: {key} is no option of a model of transformers, {nearest(key, OPTIONS)}")
    languages = Languages(**given)
    folder = local_folder(name, place)
    tokenizer, model = open_files(name, folder, languages)
    count = model.config.vocab_size
    read, written = (HubTokenizer(tokenizer, languages, is_target, count) for is_target in (False, True))
    if languages.target is not None:
        language_id(tokenizer, languages.target)
    tokenizers = Tokenizers(read, written, shared=False)
    wrapped = HubModel(model, read, written).to(device).eval()
    config = {"model": {"_target_": f"transformers.{type(model).__name__}"}, "data": {}}
    return Translator(wrapped, tokenizers, device, config=config, folder=folder, precision=precision)


def local_folder(name: str, place: str) -> Path:
    """The model's files. Raises DataError."""
    if Path(place).is_dir():
        return Path(place)
    return download(name, place, FILES)


def open_files(name: str, folder: Path, languages: Languages) -> tuple[Any, Any]:
    """Tokenizer and model. Raises DataError."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    codes = {"src_lang": languages.source, "tgt_lang": languages.target}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, **{key: code for key, code in codes.items() if code is not None}
        )
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    except Exception as error:  # of many kinds: files that are missing, of another model, damaged
        raise DataError(f"{name}: cannot be opened ({reason_of(error)})") from None
    return tokenizer, model
