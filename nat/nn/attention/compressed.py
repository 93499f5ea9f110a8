"""Memory-compressed attention (Liu et al. 2018, section 4.2.3, https://arxiv.org/abs/1801.10198)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nat.config import option
from nat.errors import ConfigError
from nat.nn.attention.full import FullAttention
from nat.ops.pooling import mean_of_cells


class StridedConvolution(nn.Module):
    """A convolution along the sequence, all channels to all: output j reads `kernel` positions around those from
    j * factor to (j + 1) * factor - 1, with zeros beyond the ends."""

    def __init__(self, *, width: int, factor: int, kernel: int) -> None:
        super().__init__()
        self.factor, self.kernel = factor, kernel
        self.mix = nn.Linear(kernel * width, width)

    def forward(self, x: Float[Tensor, "B N I"]) -> Float[Tensor, "B M I"]:
        number = -(-x.size(1) // self.factor)
        before = (self.kernel - self.factor) // 2
        after = (number - 1) * self.factor + self.kernel - before - x.size(1)
        windows = F.pad(x, (0, 0, before, after)).unfold(1, self.kernel, self.factor)  # (B, M, I, kernel)
        return self.mix(windows.transpose(2, 3).flatten(2))


class CompressedAttention(FullAttention):
    """Softmax attention to keys and values that a strided convolution has made fewer, one of each.

    Of N positions N / factor keys are left, so the cost still grows with N^2. With max_keys it grows with N: the
    factor is then proportional to the length. A sequence longer than max_keys * factor is first cut into cells of p
    positions, p = N / (max_keys * factor) rounded up, and the convolution reads the means of the cells: together they
    compress by p * factor. Shorter sequences have cells of one position, hence the paper's form.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(FullAttention.Config):
        factor: int = option(3, "stride of the convolution: positions for each key", minimum=1, maximum=1_000_000)
        kernel: int = option(
            3, "positions that the convolution reads for a key; at least factor", minimum=1, maximum=4096
        )
        max_keys: int | None = option(
            None,
            "the most keys of a sequence, by a factor that grows with its length; null: no limit",
            minimum=1,
            maximum=1_000_000,
        )

        def __post_init__(self) -> None:
            if self.kernel < self.factor:
                raise ConfigError(f"kernel={self.kernel}: must be at least factor={self.factor}, or keys are skipped")

    def __init__(self, config: Config, *, dim: int, num_heads: int, head_dim: int | None = None) -> None:
        super().__init__(config, dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.factor = config.factor
        self.max_cells = None if config.max_keys is None else config.max_keys * config.factor
        sizes = {"width": self.num_heads * self.head_dim, "factor": config.factor, "kernel": config.kernel}
        self.shorten_keys = StridedConvolution(**sizes)
        self.shorten_values = StridedConvolution(**sizes)

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L D"]:
        assert context is x, "this kind of attention is self-attention"
        inner = self.num_heads * self.head_dim
        queries, both = self.project_in(x).split((inner, 2 * inner), dim=-1)
        if valid is not None:
            both = both.masked_fill(~valid[:, :, None], 0.0)
        both, valid = self.pool(both, valid)
        keys, values = both.chunk(2, dim=-1)
        keys, values = self.split(self.shorten_keys(keys)), self.split(self.shorten_values(values))
        return self.attend(self.split(queries), keys, values, None if valid is None else self.counting(valid))

    def pool(
        self, x: Float[Tensor, "B N I"], valid: Bool[Tensor, "B N"] | None
    ) -> tuple[Float[Tensor, "B C I"], Bool[Tensor, "B C"] | None]:
        """Means of cells, where there may be rows of more positions than cells."""
        if self.max_cells is None or x.size(1) <= self.max_cells:
            return x, valid
        lengths = x.new_full((len(x),), x.size(1), dtype=torch.long) if valid is None else valid.sum(dim=1)
        return mean_of_cells(x, lengths, max_cells=self.max_cells)

    def counting(self, valid: Bool[Tensor, "B C"]) -> Bool[Tensor, "B M"]:
        """The keys of which the first of their own positions is valid, and the first key always: a softmax over nothing
        would be NaN."""
        return F.pad(valid[:, self.factor :: self.factor], (1, 0), value=True)
