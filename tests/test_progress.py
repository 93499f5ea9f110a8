"""Rates and the time left are of the recent past."""

from __future__ import annotations

import pytest

from nat import progress
from nat.progress import Progress, Rate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_a_rate_is_of_the_last_minute(clock: Clock) -> None:
    rate = Rate()
    assert rate.per_second == 0.0
    for _ in range(300):
        clock.now += 1
        rate.add(10)
    assert rate.per_second == pytest.approx(10.0)
    for _ in range(60):
        clock.now += 1
        rate.add(2)
    assert rate.per_second == pytest.approx(2.0)
    clock.now += 500  # a validation
    rate.leave_out(500)
    assert rate.per_second == pytest.approx(2.0)


def test_a_rate_of_rare_units_is_of_the_last_of_them(clock: Clock) -> None:
    rate = Rate()
    for _ in range(5):
        clock.now += 200
        rate.add(100)
    assert rate.per_second == pytest.approx(0.5)


def test_the_line_tells_the_recent_rates_and_the_time_left_at_them(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("train", total=1000, unit="updates", start=100, also="tokens") as shown:
        for _ in range(100):  # slow at first
            clock.now += 10
            shown.advance(1, "loss 2.000", also=100)
        for _ in range(100):
            clock.now += 1
            shown.advance(1, "loss 1.000", also=3000)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "train 290/1000 updates, 1 updates/s, 11:50 left, loss 1.000, 3,000 tokens/s"
    )


def test_a_silent_one_prints_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", total=10, unit="updates", silent=True) as shown:
        clock.now += 100
        shown.advance(1)
        shown.say("text")
    assert capsys.readouterr().err == ""
