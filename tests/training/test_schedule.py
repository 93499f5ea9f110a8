"""Schedules against the formulas of their papers."""

from __future__ import annotations

import math

import pytest

from nat.errors import ConfigError
from nat.schedule import Schedule, Shape
from nat.training.schedule import LearningRate

PEAK, WARMUP, LAST = 2e-3, 10, 110


def rate(shape: Shape, *, warmup: int = WARMUP, start: float = 0.0, end: float = 0.0) -> LearningRate:
    config = LearningRate.Config(peak=PEAK, warmup=warmup, start=start, shape=shape, end=end)
    return LearningRate(config, max_updates=LAST)


@pytest.mark.parametrize("shape", list(Shape))
def test_warm_up_is_linear_and_ends_at_the_peak(shape: Shape) -> None:
    schedule = rate(shape, start=1e-4)
    for update in range(1, WARMUP):
        assert schedule(update) == pytest.approx(1e-4 + (PEAK - 1e-4) * update / WARMUP)
    assert schedule(WARMUP) == pytest.approx(PEAK)


@pytest.mark.parametrize("update", [10, 11, 40, 90, 110, 1000])
def test_inverse_square_root(update: int) -> None:
    assert rate(Shape.INVERSE_SQRT)(update) == pytest.approx(PEAK * math.sqrt(WARMUP / update))


@pytest.mark.parametrize("update", [10, 11, 60, 109, 110])
def test_cosine_and_linear_reach_the_end_at_the_last_update(update: int) -> None:
    done = (update - WARMUP) / (LAST - WARMUP)
    cosine = 1e-5 + (PEAK - 1e-5) * (1 + math.cos(math.pi * done)) / 2
    assert rate(Shape.COSINE, end=1e-5)(update) == pytest.approx(cosine)
    assert rate(Shape.LINEAR, end=1e-5)(update) == pytest.approx(PEAK + (1e-5 - PEAK) * done)
    assert rate(Shape.CONSTANT)(update) == PEAK


@pytest.mark.parametrize("shape", list(Shape))
def test_without_warm_up_and_with_one_longer_than_the_run(shape: Shape) -> None:
    if shape is Shape.INVERSE_SQRT:  # it would fall to a tenth within a hundred updates
        with pytest.raises(ConfigError, match="warmup=0: with shape=inverse_sqrt the rate decays from the end"):
            rate(shape, warmup=0)
    else:
        assert rate(shape, warmup=0)(1) <= PEAK
        assert all(math.isfinite(rate(shape, warmup=0)(update)) for update in range(1, 200))
    assert rate(shape, warmup=10 * LAST)(LAST) == pytest.approx(PEAK)


def test_a_schedule_stays_at_its_end() -> None:
    for shape in (Shape.LINEAR, Shape.COSINE):
        assert Schedule(1.0, 0.2, 10, shape)(10) == pytest.approx(0.2)
        assert Schedule(1.0, 0.2, 10, shape)(99) == pytest.approx(0.2)
        assert Schedule(1.0, 0.2, 10, shape)(0) == 1.0
    assert Schedule(1.0, 0.2, 10, Shape.LINEAR)(5) == pytest.approx(0.6)
    assert Schedule(1.0, 0.2, 0, Shape.LINEAR)(3) == pytest.approx(0.2)
