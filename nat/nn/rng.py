"""Random numbers that depend on what is computed, not on what was computed before.

Dropout draws from torch's global generator; it is seeded anew for every micro-batch from the run's seed, the
update, the rank and the micro-batch. So a resumed run needs no stored generator state to continue as if it had
never stopped, and validation cannot disturb training.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nat.data.batch import Batch
from nat.ops.sampling import class_of, classes_of
from nat.rows import Rows


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed that is a fixed function of its parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def set_seed(*parts: int | str) -> None:
    """Seed torch's generators on every device from the parts."""
    torch.manual_seed(seed_for(*parts))


@dataclass(frozen=True)
class RowRandom(Rows):
    """Random numbers that are a function of a row's own content, of a seed and of nothing else.

    Masks, noise and samples drawn from it are the same whatever batch, padding, rank or device the row meets: so
    a loss with noise still is a sum over rows, and a sampled translation does not depend on its batch.
    keys: (B,) int64, see `of`.
    """

    keys: Int[Tensor, " B"]

    @classmethod
    def of(cls, *parts: tuple[Tensor, Tensor], seed: int) -> RowRandom:
        """parts: (tokens, valid) of (B, L) each, padded on the right; seed: an update's number, a user's seed."""
        keys = torch.full((parts[0][0].size(0),), seed, dtype=torch.int64, device=parts[0][0].device)
        for tokens, valid in parts:
            positions = torch.arange(tokens.size(1), device=tokens.device)
            keys = _mix(keys) + _mix(_mix(tokens.long() + 1) + positions).masked_fill(~valid, 0).sum(dim=1)
        return cls(_mix(keys))

    @classmethod
    def of_pairs(cls, batch: Batch, *, seed: int) -> RowRandom:
        """Of both sides of right-padded pairs, and of their own keys where they have some: in training two equal pairs
        of an update draw different numbers, and two runs of different seeds."""
        source, target = batch.source, batch.target
        random = cls.of((source.tokens, source.valid), (target.tokens, target.valid), seed=seed)
        return random if batch.keys is None else cls(_mix(random.keys + _mix(batch.keys)))

    def fork(self, number: int) -> RowRandom:
        """An independent stream, for another purpose, pass or candidate."""
        return RowRandom(_mix(self.keys + _wrapped((number + 1) * _GOLDEN_SMALL)))

    def fork_each(self, numbers: Int[Tensor, " B"]) -> RowRandom:
        """As `fork`, with a number of each row's own."""
        return RowRandom(_mix(self.keys + (numbers + 1) * _GOLDEN_SMALL))

    def copies(self, n: int) -> RowRandom:
        """n streams of each row, (B * n,), copies of a row side by side: like `repeat_rows`, but not equal."""
        numbers = torch.arange(1, n + 1, device=self.keys.device) * _GOLDEN_SMALL
        return RowRandom(_mix(self.keys[:, None] + numbers).flatten())

    def uniform(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Numbers in (0, 1), float32, (B, *shape). An entry depends on its indices, not on the shape."""
        bits = self.keys
        for size in shape:
            bits = _mix(bits[..., None] + torch.arange(1, size + 1, device=bits.device))
        return _fraction(bits)

    def sample(self, log_probs: Float[Tensor, "B *L V"]) -> Int[Tensor, "B *L"]:
        """A class for each row and position, drawn from the softmax of `log_probs` (normalised or not)."""
        return class_of(log_probs, self.uniform(*log_probs.shape[1:-1]))

    def samples(self, log_probs: Float[Tensor, "B L V"]) -> Int[Tensor, "B n L"]:
        """For B * n streams, `copies(n)` of B rows: what `sample` gives for rows repeated n times, without repeating
        the probabilities."""
        drawn = self.uniform(log_probs.size(1)).view(log_probs.size(0), -1, log_probs.size(1))
        return classes_of(log_probs, drawn.transpose(1, 2)).transpose(1, 2)


def evenly_spread(batch: Batch, *, seed: int) -> Float[Tensor, " B"]:
    """A number in (0, 1) of each pair of an update, all of them together evenly spread, wherever each one is computed:
    multiples of the golden ratio by the pairs' keys, which count them, less their whole part, turned by a number that
    the seed draws. Pairs without keys have independent numbers."""
    if batch.keys is None:
        return RowRandom.of_pairs(batch, seed=seed).uniform()
    turn = _mix(torch.full((1,), seed, dtype=torch.int64, device=batch.keys.device))
    return _fraction(batch.keys * _GOLDEN + turn)


def _fraction(bits: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The number in (0, 1) whose binary digits begin with these."""
    return (((bits >> 41) & 0x7FFFFF).float() + 0.5) / 2.0**23  # of 24 bits, the largest would round to 1


_GOLDEN = -0x61C8864680B583EB  # odd; 2^64 over the golden ratio, as an int64
_GOLDEN_SMALL = 0x1E3779B97F4A7C15  # odd; 2^64 over the golden ratio without its top bits, to stay within int64


def _wrapped(number: int) -> int:
    """The int64 of the same last 64 bits: tensors of int64 wrap around by themselves, Python's numbers do not."""
    return (number + 2**63) % 2**64 - 2**63


def _mix(bits: Tensor) -> Tensor:
    """Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", figure 14 (variant 13 of Stafford):
    a bijection of 64-bit words whose output bits all depend on all input bits. Products wrap around."""
    bits = bits + _GOLDEN_SMALL
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)
