"""Attention inside clusters as a kind of self-attention, and its running centroids."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nat.config import parse
from nat.errors import ConfigError
from nat.nn.attention.full import FullAttention
from nat.nn.attention.routing import Centroids, RoutingAttention
from nat.ops.clustering import similarities

VALID = torch.arange(9) < torch.tensor([9, 6, 2, 1])[:, None]


def make(*, layers: int = 1, **options: float) -> list[RoutingAttention]:
    torch.manual_seed(0)
    config = parse(RoutingAttention.Config, {"cluster_size": 2, **options})
    stack = RoutingAttention.stack(config, num_layers=layers, dim=8, num_heads=2)
    return [layer.double() for layer in stack]  # type: ignore[misc]


def states(length: int = 9, seed: int = 1) -> Tensor:
    return torch.randn(4, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normalised_attention(attention: RoutingAttention, x: Tensor, valid: Tensor) -> Tensor:
    """Dense attention with queries and keys of unit variance."""
    full = FullAttention(FullAttention.Config(), dim=8, num_heads=2).double()
    full.load_state_dict({name: p for name, p in attention.state_dict().items() if name.startswith("project")})
    q, k, v = full.project(x)
    q, k = F.layer_norm(q, (4,)), F.layer_norm(k, (4,))
    return full.attend(q, k, v, valid)


@pytest.mark.parametrize("options", [{"num_clusters": 1}, {"cluster_size": 9}])
def test_one_cluster_is_full_attention_with_normalised_queries_and_keys(options: dict[str, float]) -> None:
    (attention,) = make(**options)
    x = states().requires_grad_()
    found, expected = attention(x, x, VALID), normalised_attention(attention, x, VALID)
    torch.testing.assert_close(found[VALID], expected[VALID], rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(y[VALID].square().sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_clusters_see_less_than_everything() -> None:
    (attention,) = make()
    x = states()
    assert not torch.allclose(attention(x, x, VALID)[0], normalised_attention(attention, x, VALID)[0], atol=1e-3)


def test_a_row_does_not_depend_on_its_batch_or_on_padding() -> None:
    (attention,) = make()
    x = states().masked_fill(~VALID[:, :, None], 7.0)
    together = attention(x, x, VALID)
    for row, length in enumerate(VALID.sum(dim=1).tolist()):
        part = x[row : row + 1, :length]
        torch.testing.assert_close(attention(part, part, None)[0], together[row, :length], rtol=0, atol=1e-12)


def test_gradients() -> None:
    (attention,) = make()
    x = states(6)[:2].requires_grad_()
    valid = torch.arange(6) < torch.tensor([6, 5])[:, None]
    assert torch.autograd.gradcheck(lambda x: attention.eval()(x, x, valid)[valid], (x,), fast_mode=True)


# --- centroids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])  # with 2 one vector is alone in its cluster
def test_centroids_go_to_the_mean_of_their_queries_and_keys(seed: int) -> None:
    (attention,) = make(decay=0.9, num_clusters=4)
    x = states(seed=seed)
    attention.train()(x, x, VALID)
    q, k, _ = attention.project(x)
    before = attention.centroids.get_buffer("means").clone()
    expected = before.clone()
    for h in range(2):
        groups: list[list[Tensor]] = [[], [], [], []]
        for b, (length, used) in enumerate([(9, 3), (6, 3), (2, 1), (1, 1)]):  # min(4, sqrt(n), n / 2)
            for vector in (*q[b, h, :length], *k[b, h, :length]):
                groups[int((before[h, :used] - vector).norm(dim=1).argmin())].append(vector)
        assert seed != 2 or h == 0 or any(len(group) == 1 for group in groups)
        for c, group in enumerate(groups):
            if group:
                expected[h, c] = 0.9 * before[h, c] + 0.1 * torch.stack(group).mean(dim=0).detach()
    assert torch.equal(attention.centroids.get_buffer("means"), before)  # until the update is applied
    attention.centroids.settle()
    torch.testing.assert_close(attention.centroids.get_buffer("means"), expected, rtol=0, atol=1e-12)
    assert torch.equal(expected[:, 3], before[:, 3])  # no row used it


def test_k_means_finds_clusters_that_are_there() -> None:
    torch.manual_seed(0)
    places = F.layer_norm(torch.randn(4, 6), (6,))
    centroids = Centroids(num_heads=1, num_clusters=4, head_dim=6, decay=0.5, seed=1).train()
    centroids.get_buffer("means").copy_(places + 0.3 * torch.randn(1, 4, 6))
    x = (places.repeat(50, 1) + 0.05 * torch.randn(200, 6))[None, None]
    valid, used = torch.ones(1, 200, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    for _ in range(30):
        centroids.learn(x, similarities(x, centroids.first(4)), valid, used)
        centroids.settle()
    torch.testing.assert_close(centroids.first(4)[0], places, rtol=0, atol=0.05)


def test_evaluation_leaves_centroids_alone() -> None:
    (attention,) = make()
    x = states()
    attention.eval()(x, x, VALID)
    with torch.no_grad():
        attention.train()(x, x, VALID)
    assert not any(total.any() for total in attention.centroids.sums)


def test_centroids_follow_seed_and_layer_and_are_part_of_the_checkpoint() -> None:
    first, second = (layer.centroids.get_buffer("means") for layer in make(layers=2))
    assert not torch.equal(first, second)
    assert torch.equal(first, make()[0].centroids.get_buffer("means"))
    assert not torch.equal(first, make(seed=1)[0].centroids.get_buffer("means"))
    assert [name for name in make()[0].state_dict() if "centroids" in name] == ["centroids.means"]
    torch.testing.assert_close(first.norm(dim=-1), torch.full((2, 128), 2.0).double(), rtol=0, atol=0.01)


def test_dropout_is_for_training() -> None:
    (attention,) = make(dropout=0.5)
    x = states()
    assert not torch.equal(attention.train()(x, x, VALID), attention(x, x, VALID))
    assert torch.equal(attention.eval()(x, x, VALID), make()[0](x, x, VALID))


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"num_clusters": 0}, "num_clusters=0: must be at least 1"),
        ({"cluster_size": 0}, "cluster_size=0: must be at least 1"),
        ({"decay": 1.0}, "decay=1.0: must be at least 0 and less than 1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"dropout": 1.0}, "dropout=1.0: must be at least 0 and less than 1"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parse(RoutingAttention.Config, option)
