"""One optimiser update: micro-batches -> objective -> gradients -> clip -> step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nat.data.batch import Batch
from nat.data.batching import Update, collate, micro_batches
from nat.data.pairs import Pair
from nat.errors import ConfigError
from nat.models.contract import LossTerm
from nat.nn.rng import seed_for, set_seed
from nat.nn.running import Running
from nat.runs.precision import Precision, autocast
from nat.training.objective import Totals, objective
from nat.training.parallel import Parallel

Loss = Callable[..., dict[str, LossTerm]]  # (batch, *, update), as `TranslationModel.loss`


@dataclass(frozen=True)
class StepResult:
    """What an update did. totals: its loss terms over all ranks. skipped: the gradient was not finite, nothing
    was changed. splits: how often micro-batches had to be halved for want of memory."""

    totals: Totals
    gradient_norm: float
    skipped: bool
    splits: int
    num_tokens: int


class UpdateStep:
    """Applies updates to a model.

    The gradient is that of the token-weighted mean over the whole update, whatever the number of ranks and
    micro-batches. Dropout is seeded per (seed, update, rank, micro-batch), so a repeated update is the same.
    Running statistics are settled with the update that they are of, from the same sums.
    """

    def __init__(
        self,
        parallel: Parallel,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: Precision,
        max_tokens: int,
        clip_norm: float | None,
        seed: int,
        compiled: bool = False,
        loss: Loss | None = None,
    ) -> None:
        """loss: what is trained on instead of the model's own, see `Stage`."""
        self.parallel, self.model, self.ranks = parallel, parallel.model, parallel.ranks
        self.optimizer, self.device = optimizer, device
        self.precision, self.max_tokens, self.clip_norm, self.seed = precision, max_tokens, clip_norm, seed
        self.noise = seed_for("noise", seed) >> 1  # half, so that a pair's number can be added
        self.plain_loss: Loss = self.model.loss if loss is None else loss
        self.loss: Loss = torch.compile(self.plain_loss, dynamic=True) if compiled else self.plain_loss
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is Precision.FP16)
        self.running = [part for part in self.model.modules() if isinstance(part, Running)]

    def share(self, pairs: Sequence[Pair], *, splits: int = 0) -> list[Batch]:
        """The micro-batches of this rank's share of an update, in pinned memory where they go to a GPU, so that their
        way there takes no time of the host's; each of the size that is left after `splits` halvings."""
        batches = micro_batches(
            pairs,
            self.model.canvas_length,
            rank=self.ranks.rank,
            num_ranks=self.ranks.num_ranks,
            max_tokens=max(1, self.max_tokens >> splits),
            seed=self.noise,
        )
        return [batch.map(Tensor.pin_memory) for batch in batches] if self.device.type == "cuda" else batches

    def __call__(
        self, pairs: Sequence[Pair], *, update: int, learning_rate: float, batches: list[Batch] | None = None
    ) -> StepResult:
        """Learn from `pairs`, the whole update, of which this rank takes its share. batches: that share, where it was
        made ahead."""
        whole = Update.of(pairs)
        num_tokens = self._num_tokens(whole)
        totals, splits = self._gradients(whole, self.share(whole) if batches is None else batches, num_tokens, update)
        if not totals.tensors() and self.ranks.num_ranks > 1:
            totals.add(self._empty_terms(update, with_fertilities=whole.table.fertilities is not None))
        self.parallel.reduce()
        self.ranks.sum_tensors([*totals.tensors(), *(total for part in self.running for total in part.sums)])
        self.scaler.unscale_(self.optimizer)
        norm = self.parallel.clip(self.clip_norm or math.inf)
        finite = math.isfinite(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if finite:
            self.scaler.step(self.optimizer)
            for part in self.running:
                part.settle()
        self.scaler.update(None if finite else self.scaler.get_scale() / 2)
        return StepResult(totals, norm, not finite, splits, num_tokens)

    def _num_tokens(self, whole: Update) -> int:
        """Target tokens of the update, also where each rank has pairs of its own."""
        count = torch.tensor(int(whole.target_lengths.sum()), dtype=torch.float64)
        if whole.is_share:
            self.ranks.sum_tensors([count])
        return int(count)

    def _gradients(self, whole: Update, batches: list[Batch], num_tokens: int, update: int) -> tuple[Totals, int]:
        """Accumulate gradients; when memory runs out, start again with micro-batches of half the size."""
        splits = 0
        self.parallel.begin()
        while True:
            try:
                return self._accumulate(batches, num_tokens, update), splits
            except torch.OutOfMemoryError:
                if all(len(batch) == 1 for batch in batches):
                    raise ConfigError(
                        f"update {update}: out of memory on a single sentence of "
                        f"{whole.source_lengths.max()} tokens; lower data.filters.max_tokens"
                    ) from None
            splits += 1
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.parallel.restart()
            batches = self.share(whole, splits=splits)

    def _accumulate(self, batches: Sequence[Batch], num_tokens: int, update: int) -> Totals:
        for part in self.running:
            part.restart()
        totals = Totals()
        for index, batch in enumerate(batches):
            set_seed(self.seed, update, self.ranks.rank, index)
            with autocast(self.precision, self.device):
                terms = self.loss(batch.to(self.device), update=update)
            if index == len(batches) - 1:
                self.parallel.before_last_backward()
            self.scaler.scale(objective(terms, num_tokens)).backward()
            totals.add(terms)
        return totals

    def _empty_terms(self, update: int, *, with_fertilities: bool) -> dict[str, LossTerm]:
        """Terms of no data: a rank without a share must still take part in the exchange of totals."""
        one = collate([Pair([7], [7], [1] if with_fertilities else None)]).to(self.device)
        with torch.no_grad():
            terms = self.plain_loss(one, update=update)
        return {name: LossTerm(t.total * 0, t.count * 0, t.weight) for name, t in terms.items()}
