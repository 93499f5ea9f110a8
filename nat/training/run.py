"""From a configuration to a trained run folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nat
from nat.config import Component, load_yaml, option, parse, save_yaml, to_plain
from nat.data.batch import Batch
from nat.data.cache import digest
from nat.data.corpus import DataConfig, read_corpus
from nat.data.points import beyond
from nat.data.tokenized import StreamingCorpus, TokenizedCorpus, prepare
from nat.data.tokenizer import Tokenizers
from nat.data.tokenizer_training import build_tokenizers
from nat.errors import ConfigError, DataError
from nat.files import to_json, write_atomically
from nat.models.contract import TranslationModel
from nat.models.options import DecodingOptions
from nat.nn.attention.base import Attention
from nat.nn.rng import set_seed
from nat.nn.transformer import Encoder
from nat.runs.device import choose_device, deterministic
from nat.runs.folder import latest_checkpoint
from nat.runs.locations import run_folder
from nat.runs.lock import FolderLock
from nat.runs.memory import Allowance
from nat.runs.weights import WEIGHTS, load_tensors
from nat.training.distributed import Ranks
from nat.training.parallel import Parallel, Parallelism
from nat.training.replicas import Replicas
from nat.training.schedule import LearningRate
from nat.training.stages.base import Stage
from nat.training.trainer import Trainer
from nat.training.trainer_config import TrainerConfig
from nat.training.validation import ValidationConfig, Validator


@dataclass(frozen=True)
class RunConfig:
    """Everything that `configs/train.yaml` holds."""

    run_dir: str = option(help="folder of the run; the same command with the same folder resumes")
    model: Component[TranslationModel] = option(help="the method, from the group `model`")
    encoder: Component[Encoder] = option(help="the source encoder, from the group `encoder`")
    attention: Component[Attention] = option(help="the self-attention kind, from the group `attention`")
    optimizer: Component[torch.optim.Optimizer] = option(help="from the group `optimizer`")
    schedule: Component[LearningRate] = option(help="the learning rate, from the group `schedule`")
    data: DataConfig = option(help="the corpus, from the group `data`")
    stage: Component[Stage] | None = option(
        None, "a loss that takes the place of the model's own, from the group `stage`"
    )
    seed: int = option(1, "seed of initial weights, batches and dropout", minimum=0)
    init_from: str | None = option(
        None, "run folder whose weights start this one wherever name and shape agree; it must share the tokenizer"
    )
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)


STREAM = "stream"  # of a run folder: how far the ranks have read a text that is streamed
LEARNABLE_VERSION = "1"  # part of a cache key: raise it when a model's `learnable` changes
# May differ when a run is resumed: they do not change what the finished part of the run was. Text is known by content.
FREE_ON_RESUME = (
    "trainer.max_updates", "trainer.max_minutes", "trainer.max_tokens", "trainer.device", "trainer.num_threads",
    "trainer.parallel", "trainer.rank_timeout", "trainer.compile", "trainer.activation_checkpointing",
    "trainer.deterministic", "trainer.log_every", "trainer.save_every", "trainer.keep_states", "trainer.max_skipped",
    "trainer.average_best", "validation", "data.cache", "data.num_workers", "data.train", "data.valid", "data.test",
    "run_dir", "init_from",
)  # fmt: skip


def train(config: RunConfig) -> dict[str, Any]:
    """Train, or continue, the run in `config.run_dir`. Returns the run's summary.

    Raises ConfigError or DataError before any work where an option or a file is unusable, or where another process
    writes into the folder.
    """
    if config.trainer.num_threads:
        torch.set_num_threads(config.trainer.num_threads)
    config = replace(config, data=config.data.absolute())  # so that the run's commands find its text from any folder
    device = choose_device(config.trainer.device, option="trainer.device")
    decoding = parse(
        config.model.target.Decoding,  # type: ignore[attr-defined]
        config.validation.decoding,
        "validation.decoding",
    )
    if config.stage is not None:
        config.stage.target.check(config.stage.config, model=config.model)  # type: ignore[attr-defined]
    check_options(Path(config.run_dir), config)
    ranks = Ranks.from_environment(device, timeout=config.trainer.rank_timeout)
    lock = FolderLock(Path(config.run_dir), f"run_dir={config.run_dir}")
    try:
        ranks.main_first(lambda: lock.acquire() if ranks.is_main else None)
        with deterministic(config.trainer.deterministic):
            trainer = prepare_trainer(config, decoding, ranks, device, lock)
            summary = trainer.fit()
        if isinstance(trainer.corpus, StreamingCorpus) and ranks.is_main:  # only now it is known
            print(*trainer.corpus.report.lines(), sep="\n", file=sys.stderr, flush=True)
        return summary
    finally:
        lock.release()
        ranks.close()


def prepare_trainer(
    config: RunConfig, decoding: DecodingOptions, ranks: Ranks, device: torch.device, lock: FolderLock
) -> Trainer:
    """Text, model and validation of a run, and its config.yaml."""
    folder = Path(config.run_dir)
    is_new = latest_checkpoint(folder) is None
    tokenizers, train_corpus, valid_corpus = ranks.main_first(
        lambda: prepare_data(config, folder, fresh=is_new and ranks.is_main)
    )
    decoding.check_files(vocabularies=tokenizers.vocabularies, tokenizer=tokenizers.fingerprint)
    set_seed(config.seed, "weights")
    with Allowance(copies=4):
        model: TranslationModel = config.model.build(vocabularies=tokenizers.vocabularies)
    stage: Stage | None = None
    if config.stage is not None:
        stage = config.stage.build(model=model, tokenizers=tokenizers, device=device)
    check_points(model, valid_corpus)
    train_corpus = keep_learnable(model, train_corpus, options=to_plain(config.model))
    for reader in stage.readers if stage else ():
        train_corpus = keep_learnable(reader, train_corpus)
    if isinstance(train_corpus, StreamingCorpus):
        train_corpus = train_corpus.of_rank(ranks.rank, ranks.num_ranks, folder / STREAM, fresh=is_new)
    corpora = (corpus for corpus in (train_corpus, valid_corpus) if isinstance(corpus, TokenizedCorpus))
    told = [line for corpus in corpora for line in corpus.report.lines()]
    if config.init_from and is_new:
        told.append(initialise_from(model, tokenizers, run_folder(config.init_from)))
    if ranks.is_main:
        print(*told, sep="\n", file=sys.stderr, flush=True)
        write_atomically(folder / "config.yaml", lambda part: save_yaml(config, part))
    parallel = parallel_of(config.trainer.parallel, model.to(device), ranks, device)
    return Trainer(
        config.trainer,
        parallel=parallel,
        corpus=train_corpus,
        validator=Validator(
            config.validation, corpus=valid_corpus, tokenizers=tokenizers, decoding=decoding, device=device
        ),
        optimizer=config.optimizer.build(parameters=model.parameters()),
        learning_rate=config.schedule.build(max_updates=config.trainer.max_updates),
        folder=folder,
        device=device,
        seed=config.seed,
        loss=stage.loss if stage else None,
        options=to_plain(config),
        may_write=lock.check,
    )


def parallel_of(kind: Parallelism, model: TranslationModel, ranks: Ranks, device: torch.device) -> Parallel:
    """model: on its device, with the same weights on all ranks. Its parameters are others afterwards: an optimiser is
    made later."""
    if ranks.num_ranks == 1:
        return Parallel(model)
    if kind is Parallelism.DDP:
        return Replicas(model, ranks)
    from nat.training.shards import Shards  # half a second, which other runs need not pay

    return Shards(model, ranks, device)


def check_options(folder: Path, config: RunConfig) -> None:
    """The run folder holds no run with other options. Raises ConfigError."""
    if (folder / "config.yaml").is_file() and latest_checkpoint(folder) is not None:
        differing = differences(saved_options(folder / "config.yaml"), to_plain(config))
        if differing:
            raise ConfigError(
                f"run_dir={folder}: holds a run with other options ({'; '.join(differing[:5])}); "
                "choose another run_dir, or resume with the same options"
            )


def saved_options(path: Path) -> Mapping[str, Any]:
    """The options of a run; those that its nat did not have yet at their defaults."""
    options = load_yaml(path)
    try:
        return to_plain(parse(RunConfig, options, ""))
    except ConfigError:  # of a nat that allowed more: the difference is named by its plain values
        return options


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """Options that differ between two configurations and must not when a run is resumed."""
    differing: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{path}{key}"
        before, after = old.get(key), new.get(key)
        if name in FREE_ON_RESUME or before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            differing += differences(before, after, f"{name}.")
        else:
            differing.append(f"{name}: {before} before, {after} now")
    return differing


def prepare_data(
    config: RunConfig, folder: Path, *, fresh: bool
) -> tuple[Tokenizers, TokenizedCorpus | StreamingCorpus, TokenizedCorpus]:
    """The run's tokenizers and its training and validation corpora. fresh: nothing was trained yet, so that
    tokenizers in the folder are of an attempt that failed early; else they are the run's."""
    for split in ("train", "valid"):
        if getattr(config.data, split) is None:
            raise ConfigError(f"data.{split}: a location is needed to train, for example a .tsv file")
    if fresh:
        tokenizers = build_tokenizers(config.data, read_corpus(config.data, "train"))
        tokenizers.save(folder / "tokenizer")
    else:
        tokenizers = Tokenizers.load(folder / "tokenizer")
    train_corpus = prepare(config.data, "train", tokenizers, filtered=True)
    valid_corpus = prepare(config.data, "valid", tokenizers, filtered=False)
    assert isinstance(valid_corpus, TokenizedCorpus)
    return tokenizers, train_corpus, valid_corpus


def check_points(model: TranslationModel, corpus: TokenizedCorpus) -> None:
    """Validation asks for no point that the model cannot name. Raises DataError."""
    longest = int(corpus.source_lengths.argmax())
    count, most = int(corpus.source_lengths[longest]), model.max_points
    if most is not None and count > most:
        raise DataError(f"data.valid, line {corpus.lines[longest]}: {beyond(count, most)}")


def keep_learnable(
    model: TranslationModel, corpus: TokenizedCorpus | StreamingCorpus, *, options: Mapping[str, Any] | None = None
) -> TokenizedCorpus | StreamingCorpus:
    """Leave out, and count, the pairs that this method cannot learn from. options: all those of the model; with them,
    the cache keeps which pairs these are. Raises DataError if none is left."""

    def wanted(batch: Batch) -> np.ndarray:
        fits, most = model.learnable(batch), model.max_points
        return (fits if most is None else fits & (batch.source.lengths <= most)).numpy()

    reason = model.unlearnable.format(limit=model.limiting)
    key = None if options is None else digest(LEARNABLE_VERSION, nat.__version__, to_json(options))
    return corpus.only(wanted, f"that {type(model).__name__} cannot learn from ({reason})", key)


def initialise_from(model: TranslationModel, tokenizers: Tokenizers, folder: Path) -> str:
    """Copy every weight of another run whose name and shape agree (Gu et al. 2018, section 4.1, start from the
    teacher's encoder). Returns a line that tells how many. Raises ConfigError if nothing agrees."""
    if Tokenizers.load(folder / "tokenizer").fingerprint != tokenizers.fingerprint:
        raise ConfigError(
            f"init_from={folder}: its tokenizer does not match this run's; set data.tokenizer.path={folder}/tokenizer"
        )
    theirs, own = load_tensors(folder / WEIGHTS), model.state_dict()
    fitting = {name: value for name, value in theirs.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ConfigError(f"init_from={folder}: none of its weights has a name and shape of this model")
    model.load_state_dict(own | fitting)
    return f"init_from: {len(fitting)} of {len(own)} tensors start from {folder}"
