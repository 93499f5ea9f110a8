"""The training loop: preflight, then updates with logging, saving and validation, until the budget is used."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nat
from nat.data.batch import Batch
from nat.data.batching import Update, prefetch
from nat.data.tokenized import StreamingCorpus, TokenizedCorpus
from nat.errors import ConfigError
from nat.files import write_json
from nat.nn.recompute import recompute_layers
from nat.progress import Progress
from nat.runs.folder import latest_checkpoint
from nat.runs.memory import peak_memory
from nat.training.averaging import MovingAverage
from nat.training.objective import Window
from nat.training.parallel import Parallel
from nat.training.record import RunRecord
from nat.training.resume import Checkpoint, SavedState, TrainingState
from nat.training.schedule import LearningRate
from nat.training.selection import BestCheckpoints, Kept
from nat.training.signals import StopSignal
from nat.training.step import Loss, StepResult, UpdateStep
from nat.training.trainer_config import TrainerConfig
from nat.training.validation import Metric, Validated, Validator


class Trainer:
    """Runs one training. Everything that can fail late is tried once before the first update."""

    def __init__(
        self,
        config: TrainerConfig,
        *,
        parallel: Parallel,
        corpus: TokenizedCorpus | StreamingCorpus,
        validator: Validator,
        optimizer: torch.optim.Optimizer,
        learning_rate: LearningRate,
        folder: Path,
        device: torch.device,
        seed: int,
        loss: Loss | None = None,
        options: Mapping[str, Any] | None = None,
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        """loss: what is trained on instead of the model's own, see `Stage`. options: those of the whole run as plain
        data, for its record. may_write: raises DataError once the folder is another process's."""
        self.options, self.may_write = options or {}, may_write
        self.config, self.corpus, self.validator = config, corpus, validator
        self.parallel, self.model, self.ranks = parallel, parallel.model, parallel.ranks
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.folder, self.device, self.seed = folder, device, seed
        if config.activation_checkpointing:
            recompute_layers(self.model)
        self.step = UpdateStep(
            parallel,
            optimizer,
            device=device,
            precision=config.precision,
            max_tokens=config.max_tokens,
            clip_norm=config.clip_norm,
            seed=seed,
            compiled=config.compile,
            loss=loss,
        )
        self.state, self.average = TrainingState.at_start(), MovingAverage(config.moving_average)
        keys = {"tokenizer": validator.tokenizers.fingerprint, "corpus": corpus.fingerprint}
        self.checkpoint = Checkpoint(
            folder,
            parallel,
            optimizer,
            self.step.scaler,
            self.average,
            keys | {"measure": validator.measure},
            keep=config.keep_states,
        )
        self.best = BestCheckpoints(
            folder,
            keep=validator.config.keep_best,
            smaller_is_better=validator.config.metric is Metric.LOSS,
            metadata={"tokenizer": keys["tokenizer"]},
        )
        self.record: RunRecord | None = None
        self.window, self.note, self.last_score = Window(), "", ""

    def fit(self) -> dict[str, Any]:
        """Train to the end of the budget, or until asked to stop. Returns the run's summary; its `stopped` is
        None, or the number of the signal that ended it early."""
        saved = self._resume()
        if saved is None:
            self._preflight()
        if self.ranks.is_main and not self.state.finished:
            self.record = RunRecord(self.folder, update=self.state.update, again=self._to_do_again(saved))
        with self.checkpoint:
            with StopSignal() as signal:
                stopped = None if self.state.finished else self._loop(signal)
            if stopped is None:
                self._finish()
            else:
                self._save()
        if self.record is not None:
            self.record.close()
        self.ranks.barrier()
        return self._summary() | {"stopped": stopped, "is_main": self.ranks.is_main}

    # --- the loop -----------------------------------------------------------------------------------

    def _loop(self, signal: StopSignal) -> int | None:
        """Updates until the budget is used (None) or a signal arrives (its number). A state is saved before it is
        validated: where decoding fails, no update is lost."""
        self.model.train()
        began = time.monotonic() - self.state.seconds
        shares = prefetch(self._shares())
        self.window = Window()
        with Progress(
            "train",
            total=self.config.max_updates,
            unit="updates",
            start=self.state.update,
            also="tokens",
            silent=not self.ranks.is_main,
        ) as progress:
            while not self.ranks.any(signal.received is not None):
                is_over = self._budget_is_used()
                if is_over or self.state.update % self.validator.config.every == 0:
                    self._validate(progress)
                if is_over or self._out_of_patience():
                    return None
                self._update(shares, progress)
                self.state.seconds = time.monotonic() - began
                if self.state.update % self.config.save_every == 0:
                    self._save()
        return signal.received or 15

    def _shares(self) -> Iterator[tuple[Update, list[Batch]] | None]:
        """The run's updates from where it stands, each with this rank's share of it, epoch after epoch; None at the end
        of each."""
        epoch, position = self.corpus.resume(self.state.update, self.state.epoch, self.state.position)
        while True:
            is_empty = True
            for update in self.corpus.updates(
                self.config.tokens_per_update,
                seed=self.seed,
                epoch=epoch,
                skip=position,
                canvas_length=self.model.canvas_length,
            ):
                is_empty = False
                yield update, self.step.share(update)
            if is_empty and position == 0:
                raise ConfigError("data.train: no training pair is left after the filters")
            yield None
            epoch, position = epoch + 1, 0

    def _update(self, shares: Iterator[tuple[Update, list[Batch]] | None], progress: Progress) -> None:
        began = time.monotonic()
        while (share := next(shares)) is None:
            self.state.epoch, self.state.position = self.state.epoch + 1, 0
        self.window.waited += time.monotonic() - began
        pairs, batches = share
        number = self.state.update + 1
        result = self.step(pairs, batches=batches, update=number, learning_rate=self.learning_rate(number))
        self._count(result)
        if not result.skipped:
            self.average.update(self.model)
        self.state.update, self.state.position = number, self.state.position + 1
        self.state.tokens += result.num_tokens
        self.window.add(result.totals, result.num_tokens)
        if number % self.config.log_every == 0:
            self._log(result)
        progress.advance(1, self.note, also=result.num_tokens)

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

    def _log(self, result: StepResult) -> None:
        means = self.window.totals.means()
        values = means | {
            "learning_rate": self.learning_rate(self.state.update),
            "gradient_norm": result.gradient_norm,
            "tokens_per_second": self.window.tokens_per_second,
            "data_wait": self.window.data_wait,
            "peak_memory_gb": peak_memory(self.device) / 1e9,
        }
        self._record("train", values)
        self.window = Window()
        self.note = f"loss {next(iter(means.values())):.3f}{self.last_score}"

    def _record(self, kind: str, values: Mapping[str, Any]) -> None:
        if self.record is not None:
            state = self.state
            where = {"update": state.update, "epoch": state.epoch, "tokens": state.tokens}
            self.record.write(kind, where | {"seconds": round(state.seconds, 3)}, values)

    def _budget_is_used(self) -> bool:
        minutes = self.config.max_minutes
        if self.state.update >= self.config.max_updates:
            return True
        return minutes is not None and self.ranks.any(self.state.seconds >= 60 * minutes)

    def _out_of_patience(self) -> bool:
        patience = self.validator.config.patience
        return patience is not None and self.state.validations_since_best >= patience

    # --- validation ---------------------------------------------------------------------------------

    def _validate(self, progress: Progress) -> None:
        """Save, decode, score, keep the weights if they are among the best; nothing if that was done at this update.
        The main rank does it for all."""
        if self.state.validated == self.state.update:
            return
        began, improved = time.monotonic(), False
        self._save()
        weights = self.parallel.gather(self.average.weights)
        if self.ranks.is_main:
            validated = self._scored(weights)
            improved = self.best.is_better(self._value(validated))
            self._keep(validated, weights, progress)
        self.ranks.barrier()  # a collective would give up on a long validation
        improved = self.ranks.any(improved)  # an equal score does not count against patience running out
        self.state.validations_since_best = 0 if improved else self.state.validations_since_best + 1
        self.state.validated = self.state.update
        self._save()
        if self.ranks.is_main:
            self.best.settle()
        seconds = time.monotonic() - began
        self.window.leave_out(seconds)
        progress.leave_out(seconds)

    def _scored(self, weights: dict[str, Tensor] | None) -> Validated:
        """The validation of other weights of the model, see `Parallel.reader`."""
        with self.parallel.reader(weights) as model:
            return self.validator(model)

    def _value(self, validated: Validated) -> float:
        """Of what chooses the best checkpoint."""
        return float(validated.values.get(self.validator.config.metric.value, math.nan))

    def _keep(self, validated: Validated, weights: dict[str, Tensor] | None, progress: Progress) -> None:
        """Record a validation and offer its weights."""
        assert self.record is not None
        values, update = validated.values, self.state.update
        self._record("valid", values)
        self.record.write_samples(validated.samples, update=update)
        is_best = self.best.offer(update, self._value(validated), weights or self.model.state_dict())
        self._write_run("best checkpoint", self.best.best)
        self.last_score = f", {validated.scores.partition(',')[0]}"
        loss = f"loss {values['loss']:.3f}, " if "loss" in values else ""
        progress.say(f"update {update}: valid {loss}{validated.scores}" + (" (best)" if is_best else ""))

    def _finish(self) -> None:
        """Once, at the end of the budget."""
        before, self.state.finished = self.state.finished, True
        if before:
            return
        if self.ranks.is_main:
            self._choose()
        self._save()

    def _choose(self) -> None:
        """The weights that the run offers: the best ones, or their average where it validates better."""
        best = self.best.best
        if best is None:
            raise ConfigError(
                f"validation.metric={self.validator.config.metric.value}: was never finite, so that no weights could "
                "be chosen; the same command goes on with another one (bleu, chrf)"
            )
        assert self.record is not None
        weights, values = "best checkpoint", self.record.validation(best.update)
        if self.config.average_best and len(self.best.entries) > 1:
            averaged = self.best.average(self.device)
            validated = self._scored(averaged)
            self._record("valid_average", validated.values)
            if self.best.is_better(self._value(validated)):
                self.best.choose(averaged)
                weights, values = f"average of the best {len(self.best.entries)}", dict(validated.values)
                best = Kept(best.update, self._value(validated))
        self._write_run(weights, best)
        used = {"tokens": self.state.tokens, "minutes": self.state.seconds / 60}
        self.record.write_options(self.options, values | used, update=self.state.update)

    # --- saving and resuming -----------------------------------------------------------------------

    def _save(self) -> None:
        """All ranks take part."""
        if self.ranks.is_main:
            self.may_write()
        self.checkpoint.save(self.state, self.best.entries)

    def _resume(self) -> SavedState | None:
        """Continue from the newest training state, if there is one."""
        path = latest_checkpoint(self.folder)
        self.ranks.barrier()  # all have looked before the main rank writes the first one
        self.ranks.agree(-1 if path is None else int(path.name.partition("-")[2]), f"{self.folder}/checkpoints")
        if path is None:
            return None
        saved = self.checkpoint.restore(path, self.device)
        self.state, self.best.entries = dataclasses.replace(saved.state), saved.best
        is_measured = saved.measure == self.checkpoint.keys["measure"]
        if not is_measured:  # the values of the kept weights are of something else
            self.state.validated = self.state.validations_since_best = 0
        is_over = self._budget_is_used() or self._out_of_patience()
        self.state.finished = self.state.finished and is_measured and is_over
        if self.ranks.is_main and not self.state.finished:
            self.best.resume(saved.best)
            if not is_measured:
                self.best.score_anew(lambda weights: self._value(self._scored(weights)))
        self.ranks.barrier()
        return saved

    def _to_do_again(self, saved: SavedState | None) -> set[str]:
        """What the record may hold of this very update, but the state does not know of."""
        again = {"valid"} if self.state.validated != self.state.update else set()
        return again if saved is not None and saved.state.finished else again | {"valid_average"}

    def _preflight(self) -> None:
        """Decode two batches of validation text, save, reload: what would fail after an hour fails now."""
        weights = self.parallel.gather(None)
        if self.ranks.is_main:
            with self.parallel.reader(weights) as model:
                self.validator(model, limit=2 * self.validator.config.batch_size)
        self._save()
        if self.ranks.is_main:
            self.checkpoint.finish()
            path = latest_checkpoint(self.folder)
            assert path is not None
            self.checkpoint.restore(path, self.device)
        self.ranks.barrier()

    def _write_run(self, weights: str, best: Kept | None) -> None:
        about = {"weights": weights, "best": None if best is None else dataclasses.asdict(best)}
        write_json(self.folder / "run.json", about | self._summary())

    def _summary(self) -> dict[str, Any]:
        return dataclasses.asdict(self.state) | {
            "num_parameters": sum(p.numel() for p in self.model.parameters()),
            "metric": self.validator.config.metric.value,
            "best_value": self.best.best.value if self.best.best else None,
            "seed": self.seed,
            "num_ranks": self.ranks.num_ranks,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "precision": self.config.precision.value,
            "versions": {"nat": nat.__version__, "torch": torch.__version__},
        }
