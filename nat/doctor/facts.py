"""What the checks are given: all that was read of a run, its text and a decode. No check reads a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunFacts:
    """A run folder. config: config.yaml; summary: run.json; curves: the lines of metrics.jsonl."""

    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    curves: Sequence[Mapping[str, Any]]

    def option(self, name: str, default: Any = None) -> Any:
        """The value of an option, "trainer.max_updates"; `default` where the run has none."""
        node: Any = self.config
        for part in name.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return node

    @property
    def validations(self) -> list[Mapping[str, Any]]:
        """With a BLEU, in the order of the updates."""
        return [line for line in self.curves if line.get("kind") == "valid" and line.get("bleu") is not None]

    @property
    def updates(self) -> int:
        """Updates that were done, as far as anything tells of them."""
        return max([0, self.summary.get("update", 0), *(line.get("update", 0) for line in self.curves)])

    @property
    def ended(self) -> bool:
        """The budget was used, or patience ran out."""
        most = self.option("trainer.max_updates")
        return bool(self.summary.get("finished")) or (most is not None and self.updates >= most)


@dataclass(frozen=True)
class Origin:
    """Where the training targets are from. distilled: None where it cannot be known. told: by what. manifest: that of
    the distillation, if there is one."""

    distilled: bool | None
    told: str
    manifest: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TrainingText:
    """The training pairs, or those that were looked at.

    num_pairs: after the filters. num_read, reasons: before, and how many were left out for each reason. num_looked_at:
    pairs that the figures below are of. num_short: pairs with more target tokens and repeats than canvas positions,
    where the canvas follows from the source alone, else None. enough: positions a source token that 99.5 % of the pairs
    need. num_unlearnable: other pairs that the method cannot learn from. num_target_tokens: of an epoch, ends
    included. median_count: how often the median piece of the vocabulary occurs in an epoch. num_repeated: different
    sources that occur several times; num_differing: those with different targets.
    """

    num_pairs: int
    num_read: int
    reasons: Mapping[str, int]
    num_looked_at: int
    num_short: int | None
    enough: int
    num_unlearnable: int
    why_unlearnable: str
    num_target_tokens: float
    vocabulary_size: int
    median_count: float
    num_repeated: int
    num_differing: int


@dataclass(frozen=True)
class Overlap:
    """Sentences of a held-out split, and those whose source is also one of a training pair."""

    split: str
    num_sentences: int
    num_shared: int


@dataclass(frozen=True)
class Trial:
    """The same sentences with another limit of passes. passes: mean decoder calls. p_value: of the difference in BLEU,
    by paired bootstrap resampling."""

    max_passes: int
    passes: float
    bleu: float
    p_value: float


@dataclass(frozen=True)
class DecodeFacts:
    """A decode. report: the fields of nat-decode's OUTPUT.json (`quality` at least). The others are None where the
    decode was given without its text: share of the sentences with the most frequent output, and with the most
    frequent reference; repetition of the references; share of UNK among the tokens of sources and references.
    calls_per_pass: of the method, see `DecodingOptions`; `passes` are decoder calls, max_passes counts passes.
    """

    report: Mapping[str, Any]
    common_output: float | None = None
    common_reference: float | None = None
    reference_repetition: float | None = None
    source_unknown: float | None = None
    reference_unknown: float | None = None
    trials: Sequence[Trial] = ()
    calls_per_pass: int = 1

    @property
    def num_sentences(self) -> int:
        """That are not empty."""
        return int(self.report["num_sentences"] - self.report["num_empty"])

    @property
    def tokens_per_pass(self) -> float:
        """Target tokens that one decoder call writes, on average."""
        groups = self.report["passes_by_length"]
        tokens = sum(group["length"] * group["sentences"] for group in groups)
        return tokens / max(1e-9, sum(group["passes"] * group["sentences"] for group in groups))


@dataclass(frozen=True)
class Facts:
    """All of it; None where something could not be read. notes: what that was, and what therefore was not looked at."""

    run: RunFacts
    origin: Origin
    training: TrainingText | None = None
    overlaps: Sequence[Overlap] = ()
    num_validated: int | None = None
    decode: DecodeFacts | None = None
    notes: Sequence[str] = ()
