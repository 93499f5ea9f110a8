"""Fine-tuning of the fertility NAT by an autoregressive teacher's word-level posteriors.

Gu et al. 2018, "Non-Autoregressive Neural Machine Translation", section 4.2, https://arxiv.org/abs/1711.02281.
REINFORCE: Williams 1992, https://link.springer.com/article/10.1007/BF00992696.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import Component, option
from nat.data.batch import Batch, Source, Target
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import Symbol
from nat.errors import ConfigError, DataError
from nat.models.autoregressive import Autoregressive
from nat.models.contract import LossTerm, TranslationModel
from nat.models.fertility import Fertility, at_least_one, average_fertilities
from nat.nn.rng import RowRandom
from nat.nn.transformer import Memory
from nat.ops.copying import cut_fertilities
from nat.runs.folder import load_model, read_component
from nat.training.stages.base import Stage


class FertilityTuning(Stage):
    """lambda (L_RL + L_BP) + (1 - lambda) L_KD.

    L(f) = - sum_t sum_y p(y_t = y | x, f) log p_AR(y | y'_<t, x), where y' is the arg max translation on the canvas
    that the fertilities f give and p_AR the teacher: their reverse KL divergence without the student's entropy.
    L_RL is its expectation over f ~ p(f|x) less L of the average fertilities, by REINFORCE on the fertility head; L_BP
    is L at the corpus's fertilities, back-propagated through p(y|x, f); L_KD is the model's own loss.

    Departs from the paper: L(f) has one term more, - log p_AR(EOS | y', x). Without it fewer tokens always cost less,
    and fertilities would learn to be short.
    """

    fits = (Fertility,)

    @dataclass(frozen=True)
    class Config:
        teacher: str = option(help="run folder of the autoregressive teacher; it must share the tokenizer")
        weight: float = option(0.25, "lambda: share of the teacher's terms; the rest is the model's own loss", above=0)
        num_samples: int = option(1, "fertilities sampled for each sentence and update", minimum=1, maximum=1000)
        max_length_factor: float = option(
            2.0, "sampled canvases end after factor * S tokens, or one", above=0, maximum=100
        )

        def __post_init__(self) -> None:
            if self.weight > 1:
                raise ConfigError(f"weight={self.weight}: a share is at most 1")

    def __init__(
        self, config: Config, *, model: TranslationModel, tokenizers: Tokenizers, device: torch.device
    ) -> None:
        assert isinstance(model, Fertility), "check refuses others"
        teacher, its_tokenizers = load_model(Path(config.teacher), device)
        if its_tokenizers.fingerprint != tokenizers.fingerprint:
            raise ConfigError(
                f"stage.teacher={config.teacher}: its tokenizer does not match this run's; "
                f"set data.tokenizer.path={config.teacher}/tokenizer"
            )
        assert isinstance(teacher, Autoregressive), "check refuses others"
        self.config, self.model, self.teacher = config, model, teacher.eval().requires_grad_(False)

    @classmethod
    def check(cls, config: Config, *, model: Component[TranslationModel]) -> None:
        super().check(config, model=model)
        try:
            teacher = read_component(Path(config.teacher))
        except DataError as error:
            raise ConfigError(f"stage.teacher={config.teacher}: {error}") from None
        if not issubclass(teacher.target, Autoregressive):
            raise ConfigError(
                f"stage.teacher={config.teacher}: a {teacher.target.__name__} model has no word-level posteriors; "
                "an Autoregressive one is needed"
            )

    @property
    def readers(self) -> tuple[TranslationModel, ...]:
        return (self.teacher,)

    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """Terms kd, rl and bp, the statistic reward (minus L(f) of the samples, for each token), and the model's own
        terms as statistics. The value of rl is L(f) less L of the average; its gradient is REINFORCE's."""
        batch = batch.compact()
        memory = self.model.net.encode(batch.source)
        own = self.model.terms(batch, memory, update=update)
        kd = torch.stack([term.total * term.weight for term in own.values() if term.weight]).sum()
        with torch.no_grad():
            teacher_memory = self.teacher.net.encode(batch.source)
        share, tokens = self.config.weight, batch.num_target_tokens
        random = RowRandom.of_pairs(batch, seed=update).fork(0)
        rl, reward = self.reinforced(batch.source, memory, teacher_memory, random)
        return {
            "kd": LossTerm(kd, tokens, weight=1 - share),
            "rl": LossTerm(rl, tokens, weight=share),
            "bp": LossTerm(self.back_propagated(batch, memory, teacher_memory), tokens, weight=share),
            "reward": reward,
        } | {name: LossTerm(term.total.detach(), term.count, weight=0.0) for name, term in own.items()}

    def back_propagated(self, batch: Batch, memory: Memory, teacher_memory: Memory) -> Float[Tensor, ""]:
        """L_BP, with its gradient through the student's word distributions."""
        assert batch.fertilities is not None
        log_probs, valid = self.model.translate(batch.source, batch.fertilities, memory)
        return self.divergence(log_probs, valid, teacher_memory).sum()

    def reinforced(
        self, source: Source, memory: Memory, teacher_memory: Memory, random: RowRandom
    ) -> tuple[Float[Tensor, ""], LossTerm]:
        """L_RL, the mean over the samples, and the statistic reward."""
        log_probs = self.model.fertility_log_probs(memory)  # (B, S, F)
        drawn = self.sample(log_probs.detach(), random)  # (B, K, S)
        costs, lengths = self.costs(drawn, log_probs.detach(), source, memory, teacher_memory)  # (B, 1 + K)
        chances = log_probs[:, None].expand(-1, drawn.size(1), -1, -1).gather(3, drawn[..., None]).squeeze(3)
        log_prob = chances.masked_fill(~memory.valid[:, None], 0.0).sum(dim=2)  # (B, K)
        advantage = costs[:, 1:] - costs[:, :1]
        rl = (advantage * (1 + log_prob - log_prob.detach())).mean(dim=1).sum()
        return rl, LossTerm(-costs[:, 1:].sum(), (lengths[:, 1:] + 1).sum(), weight=0.0)

    def sample(self, log_probs: Float[Tensor, "B S F"], random: RowRandom) -> Int[Tensor, "B K S"]:
        """Fertilities from the head, each source token's on its own."""
        return random.copies(self.config.num_samples).samples(log_probs)

    @torch.no_grad()
    def costs(
        self,
        drawn: Int[Tensor, "B K S"],
        log_probs: Float[Tensor, "B S F"],
        source: Source,
        memory: Memory,
        teacher_memory: Memory,
    ) -> tuple[Float[Tensor, "B N"], Int[Tensor, "B N"]]:
        """L of the average fertilities and of the K drawn ones, N = 1 + K, and the lengths of their canvases. All
        canvases of all rows are translated and scored at once."""
        fertilities = torch.cat((average_fertilities(log_probs)[:, None], drawn), dim=1)
        num_canvases = fertilities.size(1)
        fitted = at_least_one(fertilities, log_probs, source.valid).flatten(0, 1)
        source = source.repeat_rows(num_canvases)
        fitted, _ = cut_fertilities(fitted, self.limits(source))
        student, valid = self.model.translate(source, fitted, memory.shared(num_canvases))
        costs = self.divergence(student, valid, teacher_memory.shared(num_canvases))
        return costs.unflatten(0, (-1, num_canvases)), valid.sum(dim=1).unflatten(0, (-1, num_canvases))

    def limits(self, source: Source) -> Int[Tensor, " B"]:
        """The longest canvas of each row that student and teacher can read."""
        limits = self.model.limits(source, self.config.max_length_factor)
        longest = self.teacher.max_target_length
        return limits if longest is None else limits.clamp(max=longest)

    def divergence(
        self, log_probs: Float[Tensor, "N L V"], valid: Bool[Tensor, "N L"], teacher_memory: Memory
    ) -> Float[Tensor, " N"]:
        """L of each row: the teacher reads the arg max of the student's distributions, which alone have a gradient."""
        tokens = log_probs.detach().argmax(dim=-1).masked_fill(~valid, int(Symbol.PAD))
        with torch.no_grad():
            posteriors, labels, _ = self.teacher.log_probs(teacher_memory, Target(tokens, valid))  # (N, L + 1, V)
            end = posteriors[:, :, int(Symbol.EOS)].masked_fill(labels != int(Symbol.EOS), 0.0).sum(dim=1)
            # What the teacher never says, the student never says either: 0 times -inf.
            posteriors = posteriors[:, :-1].masked_fill(posteriors[:, :-1] == -torch.inf, 0.0)
        words = (log_probs.exp() * posteriors).sum(dim=2).masked_fill(~valid, 0.0)
        return -(words.sum(dim=1) + end)
