"""Text to token ids and back, by SentencePiece; points and indices of points by themselves.

nat ids: the special symbols of `vocabulary.py` first, then the model's ordinary pieces in their order. A table
translates between these and the model's own ids, so that any SentencePiece model serves and nothing in a text
(not even "<mask>") can become a special symbol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sentencepiece
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from nat.config import option
from nat.data.cache import digest
from nat.data.filters import is_blank
from nat.data.points import PointTokenizer, tokenizer_of
from nat.data.ragged import Ragged
from nat.data.vocabulary import NUM_SYMBOLS, SYMBOL_TEXT, Symbol, Tokenizer, Vocabularies
from nat.errors import ConfigError, DataError
from nat.files import read_object, write_atomically, write_json

FORMAT = 1
SPACE = "\u2581"  # SentencePiece: a space before this piece
NUM_THREADS = 4  # fixed: the sums of training, and so its result, depend on it
MAX_SENTENCE_BYTES = 1 << 24  # SentencePiece would leave out longer ones than 4192 bytes without a word
TRAINER_VERSION = "1"  # part of the cache key of what is trained: raise it when the training below changes


class Kind(Enum):
    UNIGRAM = "unigram"
    BPE = "bpe"
    POINTS = "points"


class Normalization(Enum):
    IDENTITY = "identity"
    NFKC = "nfkc"
    NFKC_CF = "nfkc_cf"
    NMT_NFKC = "nmt_nfkc"
    NMT_NFKC_CF = "nmt_nfkc_cf"


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes tokens: a model trained on the training pairs, or given ones."""

    kind: Kind = option(Kind.UNIGRAM, "unigram or bpe; points: of the plane, see data/convex_hull.yaml")
    vocabulary_size: int = option(
        8000, "ids a side, the special symbols included", minimum=NUM_SYMBOLS + 2, maximum=1_000_000
    )
    joint: bool = option(True, "one vocabulary for both languages")
    path: str | None = option(None, "a tokenizer folder of nat (RUN_DIR/tokenizer), used as it is")
    source_model: str | None = option(None, "a SentencePiece .model file, used as it is")
    target_model: str | None = option(None, "the target's .model file; null: source_model serves both")
    character_coverage: float = option(1.0, "share of characters that get a piece", above=0.0, maximum=1.0)
    byte_fallback: bool = option(False, "spell unknown characters in bytes instead of <unk>")
    normalization: Normalization = option(Normalization.IDENTITY, "SentencePiece's rule for normalizing text")
    num_sentences: int = option(
        1_000_000, "training pairs that the model is trained on, at most", minimum=1, maximum=1_000_000_000
    )

    def __post_init__(self) -> None:
        if self.path is not None and (self.source_model or self.target_model):
            raise ConfigError("path: this and source_model or target_model exclude each other")
        if self.target_model is not None and self.source_model is None:
            raise ConfigError("target_model: source_model is needed beside it")


@dataclass(frozen=True, eq=False)
class PieceTokenizer:
    """One side's tokenizer of text. model: the bytes of a SentencePiece model. Raises DataError if they are not one."""

    savable: ClassVar[bool] = True
    model: bytes
    _processor: SentencePieceProcessor = field(init=False, repr=False)
    _to_nat: list[int] = field(init=False, repr=False)
    _to_piece: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        processor = SentencePieceProcessor()
        try:
            if not self.model:
                raise RuntimeError("it is empty")
            processor.LoadFromSerializedProto(self.model)
        except (RuntimeError, OSError):
            raise DataError("not a SentencePiece model, or a damaged one") from None
        to_nat = [int(Symbol.UNK)] * processor.get_piece_size()
        to_piece = [-1] * NUM_SYMBOLS
        to_piece[Symbol.UNK] = processor.unk_id()
        for piece in range(processor.get_piece_size()):
            if not (processor.IsControl(piece) or processor.IsUnknown(piece) or processor.IsUnused(piece)):
                to_nat[piece] = len(to_piece)
                to_piece.append(piece)
        object.__setattr__(self, "_processor", processor)
        object.__setattr__(self, "_to_nat", to_nat)
        object.__setattr__(self, "_to_piece", to_piece)

    @property
    def size(self) -> int:
        """Number of ids, special symbols included."""
        return len(self._to_piece)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special symbols except UNK. A blank text (`is_blank`) gives an empty list."""
        table = self._to_nat
        encode = self._processor.encode  # given a list, it starts threads: milliseconds for a single sentence
        return [[] if is_blank(text) else [table[piece] for piece in encode(text, out_type=int)] for text in texts]

    def encode_many(self, texts: Sequence[str]) -> Ragged:
        """The same ids as one array: the quick way for thousands of texts."""
        rows = self._processor.encode(["" if is_blank(text) else text for text in texts], out_type=int, num_threads=1)
        pieces = Ragged.from_lists(rows)
        return Ragged(np.array(self._to_nat)[pieces.values], pieces.offsets)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids; special symbols vanish, except UNK, which SentencePiece shows as ' ⁇ '."""
        table = self._to_piece
        pieces = ([table[i] for i in row if table[i] >= 0] for row in rows)
        return [self._processor.decode(row) if row else "" for row in pieces]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id as text, for people to look at."""
        name = self._processor.id_to_piece
        return [SYMBOL_TEXT[i] if i < NUM_SYMBOLS else name(self._to_piece[i]) for i in map(int, ids)]


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of both sides; one and the same object where the vocabulary is shared."""

    source: Tokenizer
    target: Tokenizer
    shared: bool

    @property
    def vocabularies(self) -> Vocabularies:
        points = isinstance(self.source, PointTokenizer)
        return Vocabularies(self.source.size, self.target.size, self.shared, points)

    @cached_property
    def fingerprint(self) -> str:
        """A key of the models and of nat's special symbols."""
        return digest(str(FORMAT), *SYMBOL_TEXT, self.source.model, b"" if self.shared else self.target.model)

    def save(self, folder: Path) -> None:
        """Writes source.model, target.model where not shared, and at last tokenizer.json, by whose fingerprint
        `load` knows that all is whole."""
        write_atomically(folder / "source.model", lambda part: part.write_bytes(self.source.model))
        if not self.shared:
            write_atomically(folder / "target.model", lambda part: part.write_bytes(self.target.model))
        description = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "shared": self.shared,
            "source_size": self.source.size,
            "target_size": self.target.size,
        }
        write_json(folder / "tokenizer.json", description)

    @classmethod
    def load(cls, folder: Path) -> Tokenizers:
        """What `save` wrote. Raises DataError if it is missing, of another format, or damaged."""
        description = read_object(folder / "tokenizer.json")
        if description.get("format") != FORMAT:
            raise DataError(f"{folder}/tokenizer.json: format {description.get('format')}, this version reads {FORMAT}")
        source = load_model(folder / "source.model")
        target = source if description.get("shared") else load_model(folder / "target.model")
        loaded = cls(source, target, bool(description.get("shared")))
        if loaded.fingerprint != description.get("fingerprint"):
            raise DataError(f"{folder}: the models are not those that tokenizer.json describes")
        return loaded

    @classmethod
    def train(
        cls, config: TokenizerConfig, sources: Sequence[str], targets: Sequence[str], *, tags: Sequence[str] = ()
    ) -> Tokenizers:
        """Trains on the texts of both sides, together where config.joint. The same texts give the same model. tags:
        words that sources begin with, a piece each.

        Raises DataError if they are too few, or too many different characters, for the vocabulary size.
        """
        if config.joint:
            joint = _train([*sources, *targets], config, tags)
            return cls(joint, joint, True)
        return cls(_train(sources, config, tags), _train(targets, config), False)


def load_model(path: Path) -> Tokenizer:
    """A given SentencePiece model, or what stands in its place for points. Raises DataError."""
    try:
        model = path.read_bytes()
        return tokenizer_of(model) or PieceTokenizer(model)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _train(texts: Iterable[str], config: TokenizerConfig, words: Sequence[str] = ()) -> PieceTokenizer:
    sentencepiece.set_min_log_level(3)  # errors come as exceptions
    model = BytesIO()
    options: dict[str, Any] = {
        "model_type": config.kind.value,
        # the model's own <unk> stands for nat's UNK and is no piece of its own
        "vocab_size": config.vocabulary_size - NUM_SYMBOLS + 1,
        "character_coverage": config.character_coverage,
        "byte_fallback": config.byte_fallback,
        "normalization_rule_name": config.normalization.value,
        "user_defined_symbols": [f"{SPACE}{word}" for word in words],
    }
    fixed: dict[str, Any] = {"unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1, "num_threads": NUM_THREADS}
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            hard_vocab_limit=config.kind is Kind.BPE,  # unigram: a small corpus just gives fewer pieces
            max_sentence_length=MAX_SENTENCE_BYTES,
            **options,
            **fixed,
        )
    except RuntimeError as error:
        raise DataError(_training_failure(str(error), config)) from None
    return PieceTokenizer(model.getvalue())


def _training_failure(text: str, config: TokenizerConfig) -> str:
    key = f"data.tokenizer.vocabulary_size={config.vocabulary_size}"
    largest = re.search(r"value <= (\d+)", text)
    if largest:
        return f"{key}: the training text is too small for it, at most {int(largest[1]) + NUM_SYMBOLS - 1} is possible"
    smallest = re.search(r"required_chars\D*(\d+) vs (\d+)", text)
    if smallest:
        needed = int(smallest[2]) + NUM_SYMBOLS - 1
        return f"{key}: the training text has more characters than that, at least {needed} is needed"
    return f"{key}: a tokenizer cannot be trained on so little text ({' '.join(text.split())})"
