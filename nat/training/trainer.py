"""The trainer: preflight, then updates with logging, validation and saving, until the budget is used."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nat.config import option
from nat.data.batching import prefetch
from nat.data.tokenized import Pair, StreamingCorpus, TokenizedCorpus
from nat.errors import ConfigError, DataError
from nat.files import read_json, write_json
from nat.models.contract import TranslationModel
from nat.progress import Progress
from nat.runs.folder import latest_checkpoint
from nat.runs.weights import WEIGHTS, load_tensors, load_weights
from nat.training.checkpoint import save_training_state, unflatten_optimizer
from nat.training.distributed import Ranks
from nat.training.objective import Totals
from nat.training.record import RunRecord
from nat.training.schedule import LearningRate
from nat.training.selection import BestCheckpoints, SwappedWeights
from nat.training.signals import StopSignal
from nat.training.step import Loss, Precision, StepResult, UpdateStep
from nat.training.validation import Metric, Validator


@dataclass(frozen=True)
class TrainerConfig:
    max_updates: int = option(100_000, "length of the run in optimiser updates", minimum=1)
    max_minutes: float | None = option(None, "stop and save after so many minutes of training; null: no limit", above=0)
    tokens_per_update: int = option(
        65536, "reference target tokens per update, over all ranks and micro-batches", minimum=1
    )
    max_tokens: int = option(
        8192, "memory: rows x padded canvas of one micro-batch on one rank; accumulation does the rest", minimum=1
    )
    precision: Precision = option(Precision.FP32, "fp32, bf16 or fp16 (autocast; weights stay fp32)")
    device: str = option("auto", "auto (a GPU if there is one), cpu or cuda")
    num_threads: int | None = option(None, "CPU threads of torch; null: torch's choice", minimum=1)
    clip_norm: float | None = option(1.0, "largest gradient norm; null: no clipping", above=0)
    moving_average: float = option(0.0, "decay of the moving average of weights; 0: none", minimum=0, below=1)
    average_best: bool = option(True, "offer the average of the best checkpoints if it validates better than the best")
    compile: bool = option(False, "torch.compile the loss (needs a C++ compiler on CPU)")
    log_every: int = option(50, "updates between lines of metrics.jsonl and TensorBoard", minimum=1)
    save_every: int = option(1000, "updates between saved training states", minimum=1)
    max_skipped: int = option(20, "updates in a row with a non-finite gradient before the run gives up", minimum=1)

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device={self.device}: allowed are auto, cpu, cuda")


@dataclass
class TrainingState:
    """What, beside weights and optimiser, a run must know to continue. position: updates done in the epoch."""

    update: int = 0
    epoch: int = 0
    position: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    memory_splits: int = 0
    validations_since_best: int = 0
    finished: bool = False


class Trainer:
    """Runs one training. Everything that can fail late is tried once before the first update."""

    def __init__(
        self,
        config: TrainerConfig,
        *,
        model: TranslationModel,
        corpus: TokenizedCorpus | StreamingCorpus,
        validator: Validator,
        optimizer: torch.optim.Optimizer,
        learning_rate: LearningRate,
        folder: Path,
        ranks: Ranks,
        device: torch.device,
        seed: int,
        loss: Loss | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """loss: what is trained on instead of the model's own, see `Stage`. options: those of the whole run as plain
        data, for its record."""
        self.options = options or {}
        self.config, self.model, self.corpus, self.validator = config, model, corpus, validator
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.folder, self.ranks, self.device, self.seed = folder, ranks, device, seed
        self.step = UpdateStep(
            model,
            optimizer,
            ranks=ranks,
            device=device,
            precision=config.precision,
            max_tokens=config.max_tokens,
            clip_norm=config.clip_norm,
            seed=seed,
            compiled=config.compile,
            loss=loss,
        )
        self.state = TrainingState()
        self.average: dict[str, Tensor] | None = None
        smaller = validator.config.metric is Metric.LOSS
        self.tokenizer = validator.tokenizers.fingerprint
        self.best = BestCheckpoints(
            folder,
            keep=validator.config.keep_best,
            smaller_is_better=smaller,
            metadata={"tokenizer": self.tokenizer},
        )
        self.record: RunRecord | None = None
        self.window, self.window_tokens, self.window_start = Totals(), 0, time.monotonic()
        self.note = self.last_score = ""

    def fit(self) -> dict[str, Any]:
        """Train to the end of the budget, or until asked to stop. Returns the run's summary; its `stopped` is
        None, or the number of the signal that ended it early."""
        resumed = self._resume()
        if not resumed:
            self._preflight()
        if self.ranks.is_main and not self.state.finished:
            self.record = RunRecord(self.folder, update=self.state.update)
        began = time.monotonic() - self.state.seconds
        with StopSignal() as signal:
            stopped = self._loop(signal, began)
        if stopped is None:
            self._finish()
        elif self.ranks.is_main:
            self._save()
        if self.record is not None:
            self.record.close()
        self.ranks.barrier()
        return self._summary() | {"stopped": stopped, "is_main": self.ranks.is_main}

    def _loop(self, signal: StopSignal, began: float) -> int | None:
        """Updates until the budget is used (None) or a signal arrives (its number)."""
        self.model.train()
        progress = Progress("train", total=self.config.max_updates, unit="updates", start=self.state.update)
        self.window_start = time.monotonic()
        with progress:
            updates = prefetch(self._updates()) if not self._is_done() else iter(())
            for pairs in updates:
                if not pairs:
                    self.state.epoch, self.state.position = self.state.epoch + 1, 0
                    continue
                self._update(pairs, progress)
                self.state.seconds = time.monotonic() - began
                done = self._is_done()
                if done or self.state.update % self.validator.config.every == 0:
                    self._validate(progress)
                    done = done or self._out_of_patience()
                if done:
                    break
                if self.ranks.any(signal.received is not None):
                    return signal.received or 15
                if self.state.update % self.config.save_every == 0 and self.ranks.is_main:
                    self._save()
        return None

    def _updates(self) -> Iterator[list[Pair]]:
        """The run's updates from where it stands, epoch after epoch."""
        epoch, position = self.state.epoch, self.state.position
        while True:
            found = False
            for pairs in self.corpus.updates(
                self.config.tokens_per_update,
                seed=self.seed,
                epoch=epoch,
                skip=position,
                canvas_length=self.model.canvas_length,
            ):
                found = True
                yield pairs
            if not found and position == 0:
                raise ConfigError("data.train: no training pair is left after the filters")
            yield []  # marks the end of an epoch
            epoch, position = epoch + 1, 0

    def _update(self, pairs: list[Pair], progress: Progress) -> None:
        number = self.state.update + 1
        result = self.step(pairs, update=number, learning_rate=self.learning_rate(number))
        self._count(result)
        if self.config.moving_average and not result.skipped:
            self._move_average()
        self.state.update, self.state.position = number, self.state.position + 1
        self.state.tokens += result.num_tokens
        self.window.update(result.totals)
        self.window_tokens += result.num_tokens
        if number % self.config.log_every == 0:
            self._log(result)
        progress.advance(1, self.note)

    def _count(self, result: StepResult) -> None:
        """Count skipped updates; too many in a row are fatal."""
        self.state.memory_splits += result.splits
        self.state.skipped += result.skipped
        self.state.skipped_in_row = self.state.skipped_in_row + 1 if result.skipped else 0
        if self.state.skipped_in_row >= self.config.max_skipped:
            raise ConfigError(
                f"update {self.state.update + 1}: the gradient was not finite {self.state.skipped_in_row} times in a "
                f"row (trainer.max_skipped={self.config.max_skipped}); lower schedule.peak or use precision=fp32"
            )

    @torch.no_grad()
    def _move_average(self) -> None:
        weights = self.model.state_dict()
        if self.average is None:
            self.average = {name: value.clone() for name, value in weights.items()}
        for name, value in weights.items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1.0 - self.config.moving_average)
            else:  # a part's fixed numbers, such as seeds
                self.average[name].copy_(value)

    def _log(self, result: StepResult) -> None:
        seconds = time.monotonic() - self.window_start
        values = self.window.means() | {
            "learning_rate": self.learning_rate(self.state.update),
            "gradient_norm": result.gradient_norm,
            "tokens_per_second": self.window_tokens / seconds,
        }
        self._record("train", values)
        self.window, self.window_tokens, self.window_start = Totals(), 0, time.monotonic()
        loss = next(iter(values.values()))
        self.note = f"loss {loss:.3f}, {values['tokens_per_second']:,.0f} tokens/s{self.last_score}"

    def _record(self, kind: str, values: dict[str, Any]) -> None:
        if self.record is not None:
            state = self.state
            where = {"update": state.update, "epoch": state.epoch, "tokens": state.tokens}
            self.record.write(kind, where | {"seconds": round(state.seconds, 3)}, values)

    def _validate(self, progress: Progress) -> None:
        """Decode, score, keep the weights if they are among the best. The main rank does it for all."""
        began = time.monotonic()
        is_best = improved = False
        if self.ranks.is_main:
            with SwappedWeights(self.model, self.average):
                validated = self.validator(self.model, update=self.state.update)
                self._record("valid", dict(validated.values))
                assert self.record is not None
                self.record.write_samples(validated.samples, update=self.state.update)
                value = float(validated.values[self.validator.config.metric.value])
                before = self.best.best
                improved = before is None or self.validator.better(value, before["value"])
                is_best = self.best.offer(self.state.update, value, self.model.state_dict())
            self._write_run("best checkpoint", self.best.best)
            values = validated.values
            told = f"BLEU {values['bleu']:.2f}, chrF {values['chrf']:.2f}"
            if "accuracy" in values:
                told = f"accuracy {values['accuracy']:.2f}"
            self.last_score = f", {told.partition(',')[0]}"
            loss = f"loss {values['loss']:.3f}, " if "loss" in values else ""
            progress.say(f"update {self.state.update}: valid {loss}{told}" + (" (best)" if is_best else ""))
        improved = self.ranks.any(improved)  # an equal score does not count against patience running out
        self.state.validations_since_best = 0 if improved else self.state.validations_since_best + 1
        self.window_start += time.monotonic() - began

    def _is_done(self) -> bool:
        return self.state.finished or self._budget_is_used()

    def _budget_is_used(self) -> bool:
        minutes = self.config.max_minutes
        if self.state.update >= self.config.max_updates:
            return True
        return minutes is not None and self.ranks.any(self.state.seconds >= 60 * minutes)

    def _out_of_patience(self) -> bool:
        patience = self.validator.config.patience
        return patience is not None and self.state.validations_since_best >= patience

    def _finish(self) -> None:
        """Offer the average of the best checkpoints where it validates better than the best one."""
        before, self.state.finished = self.state.finished, True
        if before or not self.ranks.is_main:
            return
        weights, best, kind = "best checkpoint", self.best.best, "valid"
        if self.config.average_best and best is not None and len(self.best.entries) > 1:
            averaged = self.best.average(self.device)
            with SwappedWeights(self.model, averaged):
                validated = self.validator(self.model, update=self.state.update)
            self._record("valid_average", dict(validated.values))
            value = float(validated.values[self.validator.config.metric.value])
            if self.validator.better(value, best["value"]):
                self.best.choose(averaged)
                weights, best = f"average of the best {len(self.best.entries)}", best | {"value": value}
                kind = "valid_average"
        self._write_run(weights, best)
        self._record_options(kind)
        self._save()

    def _record_options(self, kind: str) -> None:
        """kind: of the validation of the weights that were chosen."""
        best, state = self.best.best, self.state
        if self.record is None or best is None:
            return
        update = state.update if kind == "valid_average" else int(best["update"])
        found = self.record.values(kind, update=update)
        scores = {name: value for name, value in found.items() if name not in ("update", "epoch", "tokens", "seconds")}
        scores |= {"tokens": state.tokens, "minutes": state.seconds / 60}
        self.record.write_options(self.options, scores, update=state.update)

    # --- saving and resuming -----------------------------------------------------------------------

    def _save(self) -> None:
        state = dataclasses.asdict(self.state) | {
            "best": self.best.entries,
            "scaler": self.step.scaler.state_dict(),
            "tokenizer": self.tokenizer,
        }
        save_training_state(self.folder, self.state.update, self.model, self.optimizer, state, self.average)

    def _resume(self) -> bool:
        """Continue from the newest training state, if there is one."""
        path = latest_checkpoint(self.folder)
        self.ranks.barrier()  # all have looked before the main rank writes the first one
        if path is None:
            return False
        load_weights(self.model, path / WEIGHTS, self.device)
        saved = read_json(path / "state.json")
        if saved.get("tokenizer", self.tokenizer) != self.tokenizer:
            raise DataError(f"{path}: was trained with another tokenizer than {self.folder / 'tokenizer'}")
        tensors = load_tensors(path / "optimizer.safetensors", self.device)
        self.optimizer.load_state_dict(unflatten_optimizer(tensors, saved["optimizer"]))
        if (path / "average.safetensors").is_file():
            self.average = load_tensors(path / "average.safetensors", self.device)
        fields = {f.name for f in dataclasses.fields(TrainingState)}
        self.state = TrainingState(**{name: value for name, value in saved.items() if name in fields})
        self.state.finished = self.state.finished and (self._budget_is_used() or self._out_of_patience())
        self.best.entries = saved["best"]
        if saved["scaler"]:
            self.step.scaler.load_state_dict(saved["scaler"])
        if self.ranks.is_main and not self.state.finished:
            self.best.resume(saved["best"])
        self.ranks.barrier()
        return True

    def _preflight(self) -> None:
        """Decode two batches of validation text, save, reload: what would fail after an hour fails now."""
        if self.ranks.is_main:
            self.validator(self.model, update=0, limit=2 * self.validator.config.batch_size)
            self._save()
            path = latest_checkpoint(self.folder)
            assert path is not None
            load_weights(self.model, path / WEIGHTS, self.device)
        self.ranks.barrier()

    def _write_run(self, weights: str, best: dict[str, float] | None) -> None:
        write_json(self.folder / "run.json", {"weights": weights, "best": best} | self._summary())

    def _summary(self) -> dict[str, Any]:
        import nat

        return dataclasses.asdict(self.state) | {
            "num_parameters": sum(p.numel() for p in self.model.parameters()),
            "metric": self.validator.config.metric.value,
            "best_value": self.best.best["value"] if self.best.best else None,
            "seed": self.seed,
            "num_ranks": self.ranks.num_ranks,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "precision": self.config.precision.value,
            "versions": {"nat": nat.__version__, "torch": torch.__version__},
        }
