"""Clustered attention and the sums of k-means against loops."""

from __future__ import annotations

import torch
from torch import Tensor

from nat.ops.clustering import cluster_sums, clustered_attention, members, similarities

LENGTHS, CLUSTERS = [7, 5, 1, 0], [3, 2, 1, 1]
VALID = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
USED = torch.arange(3) < torch.tensor(CLUSTERS)[:, None]


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_members_are_the_closest_tokens() -> None:
    x, centroids = vectors(4, 2, 7, 4), vectors(2, 3, 4, seed=1)
    found = members(similarities(x, centroids), VALID, size=3)
    for b, length in enumerate(LENGTHS):
        for h in range(2):
            for c in range(3):
                expected = sorted(range(length), key=lambda i: -float(x[b, h, i] @ centroids[h, c]))[:3]
                assert found[b, h, c, : len(expected)].tolist() == expected


def test_sums_are_those_of_the_nearest_centroids_of_a_row() -> None:
    x, centroids = vectors(4, 2, 7, 4), vectors(2, 3, 4, seed=1)
    sums, counts = cluster_sums(x, similarities(x, centroids), centroids, VALID, USED)
    expected, numbers = torch.zeros(2, 3, 4, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    for b, length in enumerate(LENGTHS):
        for h in range(2):
            for i in range(length):
                nearest = int((x[b, h, i] - centroids[h, : CLUSTERS[b]]).norm(dim=1).argmin())
                expected[h, nearest] += x[b, h, i]
                numbers[h, nearest] += 1
    torch.testing.assert_close(sums, expected)
    assert torch.equal(counts, numbers)


def by_loop(q: Tensor, k: Tensor, v: Tensor, asking: Tensor, seen: Tensor, used: Tensor) -> Tensor:
    """One head of one row."""
    found: list[list[Tensor]] = [[] for _ in q]
    for cluster, slots in enumerate(used.tolist()):
        for slot, query in enumerate(asking[cluster].tolist()):
            if slots[slot]:
                keys = seen[cluster][used[cluster]]
                found[query].append(torch.softmax(k[keys] @ q[query] / 2.0, dim=0) @ v[keys])
    return torch.stack([torch.stack(rows).mean(dim=0) if rows else torch.zeros_like(v[0]) for rows in found])


def test_attention_is_that_of_a_loop() -> None:
    q, k, v = (vectors(4, 2, 7, 4, seed=i).requires_grad_() for i in range(3))
    slots = torch.arange(3) < torch.tensor([3, 3, 1, 1])[:, None]
    used = USED[:, :, None] & slots[:, None]
    asking, seen = (torch.randn(4, 2, 3, 7).argsort(dim=-1)[..., :3] for _ in range(2))
    found = clustered_attention(q, k, v, asking, seen, used)
    expected = torch.stack(
        [
            torch.stack([by_loop(q[b, h], k[b, h], v[b, h], asking[b, h], seen[b, h], used[b]) for h in range(2)])
            for b in range(4)
        ]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (expected == 0).all(dim=-1).any()  # a query in no cluster is among them
    upstream = vectors(4, 2, 7, 4, seed=5)
    ours, theirs = (torch.autograd.grad((y * upstream).sum(), (q, k, v)) for y in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_under_autocast_clusters_are_exact() -> None:
    x, centroids = vectors(4, 2, 7, 4).float(), vectors(2, 3, 4, seed=1).float()

    def found() -> tuple[Tensor, ...]:
        scores = similarities(x, centroids)
        return scores, *cluster_sums(x, scores, centroids, VALID, USED)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = found()
    assert all(torch.equal(*pair) for pair in zip(under, found(), strict=True))
