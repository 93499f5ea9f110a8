"""One target of each source an epoch, drawn by weights."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat.data.weights import Weights


def drawn(values: list[float], sources: str, times: int) -> list[np.ndarray]:
    weights = Weights.of(np.array(values), pa.chunked_array([pa.array(list(sources))]))
    random = np.random.default_rng(3)
    return [weights.draw(random) for _ in range(times)]


def test_each_is_drawn_as_often_as_its_weight_says() -> None:
    values = [0.7, 0.3, 1.0, 0.2, 0.2, 0.6]
    shares = np.bincount(np.concatenate(drawn(values, "aabccc", 4000)), minlength=6) / 4000
    assert shares == pytest.approx(values, abs=0.03)


def test_a_source_that_stands_twice_in_a_row_is_drawn_twice() -> None:
    values = [0.7, 0.3, 0.7, 0.3, 1.0]
    chosen = drawn(values, "aaaab", 4000)
    assert {len(each) for each in chosen} == {3}
    shares = np.bincount(np.concatenate(chosen), minlength=5) / 4000
    assert shares == pytest.approx(values, abs=0.03)


def test_what_is_left_of_a_source_is_scaled_up() -> None:
    weights = Weights.of(np.array([0.5, 0.25, 0.25, 1.0]), pa.chunked_array([pa.array(list("aaab"))]))
    left = weights.take(np.array([False, True, True, True]))
    random = np.random.default_rng(1)
    shares = np.bincount(np.concatenate([left.draw(random) for _ in range(4000)]), minlength=3) / 4000
    assert shares == pytest.approx([0.5, 0.5, 1.0], abs=0.03)


@given(st.lists(st.lists(st.floats(0, 0.4), min_size=1, max_size=4), min_size=1, max_size=6))
def test_one_of_each_source(weights: list[list[float]]) -> None:
    """Whatever the weights are, zeros among them."""
    sources = "".join(chr(97 + i) * len(each) for i, each in enumerate(weights))
    values = [weight if sum(each) <= 1.4 else weight / 2 for each in weights for weight in each]
    (chosen,) = drawn(values, sources, 1)
    assert [sources[i] for i in chosen] == sorted(set(sources))
