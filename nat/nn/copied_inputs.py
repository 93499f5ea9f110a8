"""Decoder inputs of a known length, copied from the source: see `nat.ops.copying`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nat.config import option
from nat.data.batch import Source
from nat.errors import ConfigError
from nat.nn.seq2seq import Seq2Seq
from nat.ops.copying import soft_copy, uniform_copy

DEFAULT_TAU = 0.3


class Copy(Enum):
    UNIFORM = "uniform"
    SOFT = "soft"


@dataclass(frozen=True, kw_only=True)
class CopiedInputConfig:
    """Options of every method whose decoder reads a copied source."""

    copy: Copy = option(Copy.UNIFORM, "decoder input: source embeddings copied uniformly, or softly by distance")
    copy_tau: float | None = option(
        None, f"copy=soft: how far a position looks around, in source tokens; null: {DEFAULT_TAU}", above=0
    )

    def __post_init__(self) -> None:
        if self.copy_tau is not None and self.copy is not Copy.SOFT:
            raise ConfigError(f"copy_tau={self.copy_tau}: has no effect without copy=soft")

    def inputs(
        self, net: Seq2Seq, source: Source, lengths: Int[Tensor, " B"], *, width: int | None = None
    ) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
        """Decoder inputs without positions, for targets of these lengths, and where they are valid. source:
        right-padded. width: columns T, if known."""
        if self.copy is Copy.UNIFORM:
            index, valid = uniform_copy(source.lengths, lengths, width=width)
            return net.embeddings.source(source.tokens.gather(1, index)), valid
        embedded = net.embeddings.source(source.tokens)
        weights, valid = soft_copy(
            source.lengths, lengths, source_width=embedded.size(1), tau=self.copy_tau or DEFAULT_TAU, width=width
        )
        return weights.to(embedded.dtype) @ embedded, valid  # (B, T, S) @ (B, S, D)
