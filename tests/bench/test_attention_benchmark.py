"""What nat-bench attention concludes from its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nat.bench.attention import FULL, AttentionSizes, Curve, Point, build_kind, known_kinds, measure
from nat.bench.attention_results import circles, describe_kinds, exponent, read_figures, read_scores, rows_of
from nat.errors import ConfigError, DataError
from nat.nn.attention.full import FullAttention

CPU = torch.device("cpu")


def curve(name: str, power: float, lengths: tuple[int, ...] = (64, 128, 256, 512)) -> Curve:
    """Time 2 N^power ms, memory 3 N^(power / 2) MB."""
    return Curve(name, "family", 7, [Point(n, 2.0 * n**power, 5, 3.0 * n ** (power / 2)) for n in lengths])


def figures_of(*curves: Curve, **sizes: Any) -> dict[str, Any]:
    from nat.config import to_plain

    return {
        "benchmark": "attention",
        "sizes": to_plain(AttentionSizes(**sizes)),
        "repeats": 5,
        "device": "cpu",
        "num_threads": 1,
        "torch": "2",
        "results": rows_of(curves, fit_from=sizes.get("fit_from", 1024)),
    }


def test_exponents_are_those_of_the_powers() -> None:
    points = [Point(16, 1e9, 1, 1e9), *curve("x", 1.5).points]  # what is shorter than fit_from does not count
    assert exponent(points, "milliseconds", 64) == pytest.approx(1.5)
    assert exponent(points, "megabytes", 64) == pytest.approx(0.75)
    assert exponent(points, "milliseconds", 512) is None


def test_an_exponent_is_the_least_squares_line() -> None:
    points = [Point(n, t, 1, 1.0) for n, t in ((2, 1.0), (4, 8.0), (8, 4.0))]  # log2: (1, 0), (2, 3), (3, 2)
    assert exponent(points, "milliseconds", 1) == pytest.approx(1.0)


def test_a_longer_length_is_foreseen_from_the_last_two() -> None:
    assert Curve("x").foreseen(64) == (0.0, 0.0)
    assert curve("x", 1.5).foreseen(2048) == pytest.approx((2.0 * 2048**1.5, 3.0 * 512**0.75 * 4.0))  # 1 at least
    assert curve("x", 1.0, (64,)).foreseen(128) == pytest.approx((2.0 * 64 * 4, 3.0 * 8 * 4))  # as N^2


@pytest.mark.parametrize(("limit", "part"), [({"seconds": 1e-7}, "seconds=1e-07"), ({"gigabytes": 1e-6}, "GB")])
def test_lengths_that_would_cost_too_much_are_left_out(limit: dict[str, float], part: str) -> None:
    sizes = AttentionSizes(kinds=[FULL], lengths=[32, 8, 16], dim=8, num_heads=2, **limit)  # type: ignore[arg-type]
    (found,) = measure(sizes, repeats=3, device=CPU)
    assert [point.length for point in found.points] == [8]  # the shortest is where one sees it
    assert list(found.left_out) == [16, 32]
    assert part in found.left_out[16] and found.left_out[16] == found.left_out[32]


def test_rounds_fit_into_the_seconds() -> None:
    sizes = AttentionSizes(kinds=[FULL], lengths=[8], dim=8, num_heads=2)
    assert measure(sizes, repeats=4, device=CPU)[0].points[0].rounds == 4
    short = AttentionSizes(kinds=[FULL], lengths=[8], dim=8, num_heads=2, seconds=1e-9)
    assert measure(short, repeats=4, device=CPU)[0].points[0].rounds == 1


@pytest.mark.parametrize("kind", known_kinds())
@pytest.mark.parametrize("padding", [0.0, 0.4])
def test_every_kind_is_measured(kind: str, padding: float) -> None:
    sizes = AttentionSizes(kinds=[FULL, kind], lengths=[160, 320], dim=32, num_heads=4, padding=padding)
    try:
        build_kind(kind, sizes, 320)
    except ConfigError:  # a mixture for another number of heads or layers
        assert kind in ("mixed", "layered")
        return
    found = measure(sizes, repeats=1, device=CPU)
    assert [c.name for c in found] == ([FULL] if kind == FULL else [FULL, kind])
    assert [point.length for point in found[-1].points] == [160, 320]
    assert all(point.milliseconds > 0 and point.megabytes > 0 for point in found[-1].points)
    assert found[-1].family and found[-1].parameters > 0


def test_a_mask_is_given_with_padding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        FullAttention, "forward", lambda self, x, context, valid: seen.append(valid) or self.project_out(x)
    )
    for padding in (0.0, 0.25):
        sizes = AttentionSizes(kinds=[FULL], lengths=[8], dim=8, num_heads=2, batch_size=2, padding=padding)
        measure(sizes, repeats=1, device=CPU)
    assert seen[0] is None
    assert seen[-1].tolist() == [[True] * 6 + [False] * 2] * 2


def test_options_of_a_kind() -> None:
    sizes = AttentionSizes(options={FULL: {"dropout": 0.5}})
    assert build_kind(FULL, sizes, 8).dropout == 0.5
    with pytest.raises(ConfigError, match=r"attention\.options\.full\.dropuot: no such option, did you mean 'dropout'"):
        build_kind(FULL, AttentionSizes(options={FULL: {"dropuot": 0.5}}), 8)
    with pytest.raises(ConfigError, match=r"attention\.kinds=full: num_heads=3: must divide dim=8"):
        build_kind(FULL, AttentionSizes(dim=8, num_heads=3), 8)


def test_ratios_and_tables() -> None:
    slow, fast = curve(FULL, 2.0, (64, 128)), curve("fast", 1.0)
    fast.left_out = {1024: "foreseen 9 GB, attention.gigabytes=4", 2048: "foreseen 9 GB, attention.gigabytes=4"}
    figures = figures_of(slow, fast, fit_from=64)
    row = figures["results"][1]
    assert [point["time_ratio"] for point in row["points"]] == [1 / 64, 1 / 128, None, None]
    assert row["points"][0]["memory_ratio"] == pytest.approx(1 / 8)
    assert row["fitted_lengths"] == [64, 128, 256, 512]
    table = describe_kinds(figures)
    assert "| fast | 1.00 | 128.0 | 256.0 | 512.0 | 1024.0 |" in table
    assert "| full | 2.00 | 8192.0 | 32768.0 | - | - |" in table
    assert "| fast | 0.016 | 0.008 | - | - |" in table
    assert "| fast | 0.50 | 24.0 |" in table
    assert "fitted over N=64 to 512" in table
    assert table.count("left out") == 1 and "fast left out at N=1024: foreseen 9 GB" in table


def test_circles_stand_at_the_longest_length_of_all() -> None:
    figures = figures_of(curve(FULL, 2.0, (64, 128)), curve("fast", 1.0), curve("other", 1.0, (64,)), batch_size=3)
    length, found = circles(figures, {FULL: 50.0, "fast": 40.0, "absent": 1.0})
    assert length == 128
    assert [(circle.name, circle.score) for circle in found] == [(FULL, 50.0), ("fast", 40.0)]
    assert found[1].tokens_per_second == pytest.approx(1000.0 * 3 * 128 / 256.0)
    assert found[1].megabytes == pytest.approx(3.0 * 128**0.5)
    with pytest.raises(DataError, match="no length"):
        circles(figures, {"absent": 1.0})


def test_scores_of_the_kinds_that_have_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"exact_match": 0.5}))
    pattern = str(tmp_path / "KIND.json")
    assert read_scores("attention.accuracy", pattern, ["a", "b"], "exact_match") == {"a": 0.5}
    with pytest.raises(DataError, match=r"attention\.accuracy=.*KIND\.json: there is no such file of any kind \(b\)"):
        read_scores("attention.accuracy", pattern, ["b"], "exact_match")
    with pytest.raises(DataError, match=r"attention\.bleu: .*a\.json has no bleu"):
        read_scores("attention.bleu", pattern, ["a"], "bleu")


def test_figures_of_another_benchmark_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"benchmark": "edits"}))
    with pytest.raises(DataError, match="no figures of nat-bench attention"):
        read_figures(path)
