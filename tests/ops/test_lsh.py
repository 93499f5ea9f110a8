"""Hashing and chunked attention against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nat.ops.lsh import DIRECTIONS, hash_buckets, lsh_attention

LENGTHS = [11, 7, 1, 0]


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotations(heads: int = 2, rounds: int = 2, width: int = 4) -> Tensor:
    return vectors(heads, rounds, width, 2 * DIRECTIONS, seed=7)


def seen_in_round(buckets: list[int], width: int) -> list[set[int]]:
    """What each position of a row without padding sees in one round."""
    order = sorted(range(len(buckets)), key=lambda i: (buckets[i], i))
    chunk = {position: place // width for place, position in enumerate(order)}
    return [
        {j for j in order if buckets[i] == buckets[j] and abs(chunk[i] - chunk[j]) <= 1} for i in range(len(buckets))
    ]


def by_loop(q: Tensor, k: Tensor, v: Tensor, buckets: Tensor, width: int) -> Tensor:
    """One head of a row without padding: the softmax over the union of all rounds."""
    rounds = [seen_in_round(one.tolist(), width) for one in buckets]
    mixed = []
    for i in range(len(q)):
        union = sorted(set.union(*(seen[i] for seen in rounds)) - {i}) or [i]
        mixed.append(torch.softmax(k[union] @ q[i] / q.size(1) ** 0.5, dim=0) @ v[union])
    return torch.stack(mixed) if mixed else torch.zeros_like(v)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(("width", "num_buckets"), [(3, 4), (2, 2), (1, 3), (16, 1), (4, 50)])
def test_attention_is_the_softmax_over_what_the_rounds_show(rounds: int, width: int, num_buckets: int) -> None:
    q, k, v = (vectors(4, 2, 11, 4, seed=i).requires_grad_() for i in range(3))
    buckets = torch.randint(num_buckets, (4, 2, rounds, 11), generator=torch.Generator().manual_seed(3))
    valid = torch.arange(11) < torch.tensor(LENGTHS)[:, None]
    found = lsh_attention(q, k, v, buckets, valid, width=width)
    rows = [
        torch.stack([by_loop(q[b, h, :n], k[b, h, :n], v[b, h, :n], buckets[b, h, :, :n], width) for h in range(2)])
        for b, n in enumerate(LENGTHS)
    ]
    for b, n in enumerate(LENGTHS):
        torch.testing.assert_close(found[b, :, :n], rows[b], rtol=0, atol=1e-12)
    upstream = vectors(2, 11, 4, seed=4)
    expected = torch.autograd.grad(
        sum((row * upstream[:, : row.size(1)]).sum() for row in rows), (q, k, v), retain_graph=True
    )
    ours = torch.autograd.grad((found * upstream * valid[:, None, :, None]).sum(), (q, k, v))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_padding_gives_finite_numbers() -> None:
    q, k, v = (vectors(1, 1, 5, 4, seed=i).requires_grad_() for i in range(3))
    buckets = torch.zeros(1, 1, 2, 5, dtype=torch.long)
    found = lsh_attention(q, k, v, buckets, torch.zeros(1, 5, dtype=torch.bool), width=2)
    gradients = torch.autograd.grad(found.sum(), (q, k, v))
    assert all(torch.isfinite(part).all() for part in (found, *gradients))


def test_dropout_is_on_the_weights_and_keeps_their_mean() -> None:
    torch.manual_seed(0)
    q, k, v = (vectors(1, 1, 8, 4, seed=i).expand(3000, -1, -1, -1) for i in range(3))
    buckets, valid = torch.zeros(3000, 1, 1, 8, dtype=torch.long), torch.ones(3000, 8, dtype=torch.bool)
    exact = lsh_attention(q, k, v, buckets, valid, width=8)
    drawn = lsh_attention(q, k, v, buckets, valid, width=8, dropout=0.3)
    assert (drawn[0] - exact[0]).abs().max() > 0.01
    torch.testing.assert_close(drawn.mean(dim=0), exact[0], rtol=0, atol=0.08)


# --- hashing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [1, 2, 7, DIRECTIONS, DIRECTIONS + 1, 150, 1000])
def test_the_bucket_is_the_nearest_of_the_directions_and_their_opposites(chunks: int) -> None:
    """With more than 128 buckets, the pair of two hashes."""
    x, turn = vectors(1, 2, 30, 4), rotations()
    found = hash_buckets(x, turn, torch.tensor([chunks]), most=chunks + 3)
    second = -(-chunks // (2 * DIRECTIONS)) if chunks > DIRECTIONS else 0
    first = -(-chunks // (2 * second)) if second else chunks
    for head in range(2):
        for number in range(2):
            for i, vector in enumerate(x[0, head]):
                turned = vector @ turn[head, number, :, :first]
                bucket = int(torch.cat((turned, -turned)).argmax())
                if second:
                    turned = vector @ turn[head, number, :, DIRECTIONS : DIRECTIONS + second]
                    bucket = bucket * 2 * second + int(torch.cat((turned, -turned)).argmax())
                assert found[0, head, number, i] == (bucket if chunks > 1 else 0)


@pytest.mark.parametrize("chunks", [2, 64, 65, 128, 129, 5000])
def test_a_row_has_about_two_buckets_a_chunk(chunks: int) -> None:
    second = -(-chunks // 128) if chunks > 64 else 0
    count = 4 * second * -(-chunks // (2 * second)) if second else 2 * chunks
    assert 2 * chunks <= count < 2 * chunks + 4 * max(1, second)
    x = vectors(1, 2, 400, 4)
    assert hash_buckets(x, rotations(), torch.tensor([chunks]), most=chunks).max() < count


def test_buckets_of_a_row_do_not_depend_on_longer_ones() -> None:
    x = vectors(4, 2, 20, 4)
    chunks = torch.tensor([3, 1, 200, 0])  # the last is padding alone
    together = hash_buckets(x, rotations(), chunks, most=200)
    for row, number in enumerate(chunks.tolist()):
        alone = hash_buckets(x[row : row + 1], rotations(), chunks[row : row + 1], most=max(1, number))
        assert torch.equal(alone[0], together[row])


def test_near_vectors_share_buckets_more_often() -> None:
    x = vectors(1, 1, 2000, 8)
    turn = vectors(1, 1, 8, 2 * DIRECTIONS, seed=9)
    shares = []
    for distance in (0.0, 0.1, 0.5, 10.0):
        near = x + distance * vectors(1, 1, 2000, 8, seed=2)
        first, second = (hash_buckets(y, turn, torch.tensor([8]), most=8) for y in (x, near))
        shares.append((first == second).double().mean().item())
    assert shares[0] == 1.0
    assert shares[0] > shares[1] > shares[2] > shares[3]
    assert shares[3] < 0.15


def test_under_autocast_a_hash_is_exact() -> None:
    queries, most = vectors(1, 2, 64, 4).float(), torch.tensor([8])
    plain = hash_buckets(queries, rotations().float(), most, most=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hash_buckets(queries, rotations().float(), most, most=8), plain)
