"""What is to be distilled, checked before any work: teacher, corpus, options and the folder of the result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nat.config import option, to_plain
from nat.data.batch import Batch
from nat.data.batching import collate
from nat.data.corpus import SPLITS, DataConfig
from nat.data.lines import file_digest
from nat.data.pairs import Pair
from nat.data.tokenized import TokenizedCorpus, prepare
from nat.decoding.batch_options import BatchOptions
from nat.decoding.options import DecodingConfig, data_options
from nat.decoding.translator import Translator
from nat.distill.fertilities import AlignmentFile, FertilitySource, WordAligner
from nat.distill.shards import PARTS, Shards, claim
from nat.engines.choice import CUDA_GRAPHS, OF_EVERY_METHOD, PRECISION, Engine, decoding_options
from nat.engines.opening import load, weights_digest
from nat.errors import ConfigError, DataError
from nat.files import read_object
from nat.models.options import DecodingOptions
from nat.runs.folder import run_summary
from nat.runs.lock import FolderLock
from nat.training.run import keep_learnable

CORPUS, MANIFEST = "train.jsonl", "manifest.json"
# Columns that are added beside those of the source and target.
COLUMNS = ("score", "line", "rank", "truncated", "unknown", "fertilities", "weight", "raw")


class Targets(Enum):
    TEACHER = "teacher"
    CORPUS = "corpus"


@dataclass(frozen=True, kw_only=True)
class DistillConfig(DecodingConfig):
    """Everything that `configs/distill.yaml` holds. data: options over those of the teacher's run."""

    teacher: str = option(help="run folder of the teacher")
    engine: Engine = option(Engine.TORCH, "what computes its translations: torch, ctranslate2 or onnx")
    output: str = option(help="folder of the distilled corpus; the same command with the same folder resumes")
    split: str = option("train", "split whose sources are translated: train, valid or test")
    targets: Targets = option(Targets.TEACHER, "the teacher's translations, or those of the corpus, with its score")
    scorer: str | None = option(
        None, "run folder of a model that scores: of several candidates of a source the one it finds likeliest is taken"
    )
    drafter: str | None = option(
        None, "run folder or export that drafts what the teacher then checks: the same translations, in fewer calls"
    )
    weights: bool = option(
        False, "all candidates of a source, with a column of weights: how probable each is among them"
    )
    raw_share: float = option(
        0.0,
        "share of the pairs that keep their own target: those that scorer (null: the teacher) finds likeliest, a token",
        minimum=0,
        maximum=1,
    )
    fertilities: FertilitySource | None = option(
        None, "adds a column of fertilities from attention (the teacher's), aligner (a word aligner) or alignments"
    )
    attention_layer: int | None = option(
        None, "fertilities=attention: the teacher's decoder layer, from 1; null: the last", minimum=1, maximum=1024
    )
    alignments: str | None = option(
        None, "fertilities=alignments: a file in Pharaoh format, a line for each pair of the corpus"
    )
    shard_size: int = option(8192, "pairs in a shard: what a kill can cost each rank", minimum=1, maximum=1_000_000_000)

    def __post_init__(self) -> None:
        errors = [f"split={self.split}: allowed are {', '.join(SPLITS)}"] if self.split not in SPLITS else []
        if self.attention_layer is not None and self.fertilities is not FertilitySource.ATTENTION:
            errors.append(f"attention_layer={self.attention_layer}: has no effect without fertilities=attention")
        if self.alignments is not None and self.fertilities is not FertilitySource.ALIGNMENTS:
            errors.append(f"alignments={self.alignments}: has no effect without fertilities=alignments")
        if self.fertilities is FertilitySource.ALIGNMENTS:
            if self.alignments is None:
                errors.append("alignments: fertilities=alignments needs a file of alignments in Pharaoh format")
            if self.targets is not Targets.CORPUS:
                errors.append("fertilities=alignments: needs targets=corpus, since a file aligns given targets")
        if self.targets is Targets.CORPUS:
            given = {key: getattr(self, key) for key in ("scorer", "drafter", "weights", "raw_share")}
            errors += [f"{key}={value}: has no effect with targets=corpus" for key, value in given.items() if value]
            idle = [key for key in self.decoding if key not in OF_EVERY_METHOD]
            idle += [CUDA_GRAPHS] if self.decoding.get(CUDA_GRAPHS) else []
            errors += [f"decoding.{key}: has no effect with targets=corpus, which decodes nothing" for key in idle]
            if self.engine is not Engine.TORCH:
                errors.append(f"engine={self.engine.value}: has no effect with targets=corpus, torch scores")
        if errors:
            raise ConfigError("\n".join(errors))


@dataclass(frozen=True)
class Job:
    """What is to be done, checked and loaded."""

    config: DistillConfig
    teacher: Translator
    scorer: Translator | None
    data: DataConfig
    corpus: TokenizedCorpus
    decoding: DecodingOptions
    batches: BatchOptions
    alignments: AlignmentFile | None
    folder: Path
    identity: dict[str, Any]

    @property
    def shards(self) -> Shards:
        """Of the pairs of the corpus."""
        return Shards(self.folder / PARTS, len(self.corpus), self.config.shard_size)


def prepare_job(config: DistillConfig, lock: FolderLock | None) -> Job:
    """Load the teacher and the corpus. lock: of `output`, on the main rank, which takes it, and makes sure that the
    folder is new or holds this same work."""
    run = load(config.teacher, device=config.device.value)
    run_summary(run.folder)  # damaged? better known now than when the manifest is written
    writes_text = type(run.model).Decoding.writes_text  # and <unk> has none
    options = ({"allow_unknown": False} if writes_text else {}) | config.decoding
    teacher, decoding, batches = decoding_options(run, options, config.engine)
    drafter = None if config.drafter is None else load(config.drafter, device=config.device.value)
    teacher = teacher.with_drafter(drafter, decoding)
    check_abilities(config, teacher)
    scorer = open_scorer(config, decoding, teacher)
    data, corpus = prepare_corpus(config, teacher, scorer)
    alignments = None
    if config.alignments is not None:
        alignments = AlignmentFile.read(Path(config.alignments))
        lengths = (corpus.source_lengths, corpus.target_lengths)
        alignments.check(len(corpus.texts_table), corpus.rows, *lengths)
    identity = {
        "teacher_weights_sha256": weights_digest(teacher.folder),
        "tokenizer": teacher.tokenizers.fingerprint,
        "corpus": corpus.fingerprint,
        "split": config.split,
        "decoding": to_plain(decoding),
        "shard_size": config.shard_size,
    } | identity_of_extras(config, teacher)
    if scorer is not None:
        identity["scorer_weights_sha256"] = weights_digest(scorer.folder)
    job = Job(config, teacher, scorer, data, corpus, decoding, batches, alignments, Path(config.output), identity)
    if lock is not None:
        lock.acquire()
        if claim(job.folder, identity, kind="a distillation", option=f"output={job.folder}"):
            check_corpus(job.folder)
        job.shards.move_into_folders()
    return job


@torch.inference_mode()
def check_abilities(config: DistillConfig, teacher: Translator) -> None:
    """Raises ConfigError where the teacher cannot do what is asked of it, or the aligner is not installed."""
    pair = any_pair(teacher)
    if config.targets is Targets.CORPUS:
        teacher.model.score(pair)
    if config.fertilities is FertilitySource.ATTENTION:
        try:
            teacher.model.cross_attention(pair, layer=config.attention_layer)
        except ConfigError as error:
            raise ConfigError(f"fertilities=attention: {error}") from None
    if config.fertilities is FertilitySource.ALIGNER:
        WordAligner()


def any_pair(translator: Translator) -> Batch:
    """To try on a model what is asked of it."""
    return collate([Pair([7], [7])]).to(translator.device)


def open_scorer(config: DistillConfig, decoding: DecodingOptions, teacher: Translator) -> Translator | None:
    """What ranks candidates and judges the corpus's own targets, where another than the teacher does. Raises
    ConfigError where it cannot score, or nothing is asked of it or of the weights."""
    several = decoding.num_candidates > 1
    if config.weights and not several:
        raise ConfigError("weights=true: has no effect with decoding.num_candidates=1")
    if config.scorer is None:
        scorer = teacher if config.raw_share > 0 else None
    elif several or config.raw_share > 0:
        scorer = load(config.scorer, device=config.device.value)
    else:
        raise ConfigError(f"scorer={config.scorer}: has no effect with decoding.num_candidates=1 and raw_share=0")
    if scorer is not None:
        option = "raw_share: the teacher" if config.scorer is None else f"scorer={config.scorer}"
        try:
            with torch.inference_mode():
                scorer.model.score(any_pair(scorer))
        except ConfigError as error:
            raise ConfigError(f"{option}: {error}") from None
    return None if config.scorer is None else scorer


def prepare_corpus(
    config: DistillConfig, teacher: Translator, scorer: Translator | None = None
) -> tuple[DataConfig, TokenizedCorpus]:
    """The pairs of the split that the teacher can translate, or score with targets=corpus, and that the scorer can
    read; the others are counted."""
    if config.data.get("fertilities") is not None:
        raise ConfigError(
            f"data.fertilities={config.data['fertilities']}: nat-distill makes fertilities, it reads none"
        )
    data = data_options(teacher, {**config.data, "fertilities": None, "weights": None}).absolute()
    for key in ("source", "target"):
        if getattr(data, key) in COLUMNS:
            raise ConfigError(f"data.{key}={getattr(data, key)}: this name is that of a column which nat-distill adds")
    if getattr(data, config.split) is None:
        raise ConfigError(f"data.{config.split}: a location is needed, for example a .tsv file")
    corpus = prepare(data, config.split, teacher.tokenizers, filtered=config.split == "train")
    if config.targets is Targets.CORPUS:  # a pair too long for the teacher has no score
        corpus = keep_learnable(teacher.model, corpus, options=teacher.config.get("model"))
    assert isinstance(corpus, TokenizedCorpus)
    for limit in (teacher.model.max_source_length, teacher.model.max_points):
        if limit is not None:
            reason = f"whose source is longer than the teacher reads, {limit} tokens"
            corpus = corpus.select(corpus.source_lengths <= limit, reason)
    limit = None if scorer is None else scorer.model.max_source_length
    if scorer is not None and limit is not None:
        sources, _ = corpus.texts(range(len(corpus)))
        fits = [length <= limit for length in scorer.tokenizers.source.encode_many(sources).lengths]
        corpus = corpus.select(np.array(fits), f"whose source is longer than the scorer reads, {limit} tokens")
    return data, corpus


def identity_of_extras(config: DistillConfig, teacher: Translator) -> dict[str, Any]:
    """What tells this work from one in torch and fp32, with the teacher's targets and without fertilities."""
    extras: dict[str, Any] = {}
    if config.engine is not Engine.TORCH:
        extras["engine"] = teacher.engine
    if teacher.computed_in != "fp32":
        extras[PRECISION] = teacher.computed_in
    if config.targets is Targets.CORPUS:
        extras["targets"] = config.targets.value
    extras |= {"weights": True} if config.weights else {}
    extras |= {"raw_share": config.raw_share} if config.raw_share else {}
    if config.fertilities is not None:
        extras["fertilities"] = {"source": config.fertilities.value}
    if config.fertilities is FertilitySource.ATTENTION:
        extras["fertilities"]["layer"] = "last" if config.attention_layer is None else config.attention_layer
    if config.alignments is not None:
        extras["fertilities"]["alignments_sha256"] = file_digest(Path(config.alignments))
    return extras


def check_corpus(folder: Path) -> None:
    """A finished corpus is the one that its manifest describes; one that was deleted is to be made anew."""
    if not (folder / MANIFEST).is_file():
        return
    if not (folder / CORPUS).exists():
        (folder / MANIFEST).unlink()
    elif file_digest(folder / CORPUS) != read_object(folder / MANIFEST).get("corpus_sha256"):
        raise DataError(
            f"{folder}/{CORPUS}: was changed or cut short since it was made (its hash is not that of {MANIFEST}); "
            "delete it to have it made anew"
        )
