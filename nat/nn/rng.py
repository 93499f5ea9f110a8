"""Random numbers that depend on what is computed, not on what was computed before.

Dropout draws from torch's global generator; it is seeded anew for every micro-batch from the run's seed, the
update, the rank and the micro-batch. So a resumed run needs no stored generator state to continue as if it had
never stopped, and validation cannot disturb training.
"""

from __future__ import annotations

import hashlib

import torch


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed that is a fixed function of its parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def set_seed(*parts: int | str) -> None:
    """Seed torch's generators on every device from the parts."""
    torch.manual_seed(seed_for(*parts))
