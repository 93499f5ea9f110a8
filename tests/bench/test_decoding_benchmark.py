"""nat-bench decoding and waits, at small sizes."""

from __future__ import annotations

import collections
import warnings

import pytest
import torch

from nat.bench import waits
from nat.bench.decoding import DecodingSizes, describe_decoding, measure_decoding
from nat.bench.systems import text_systems
from nat.bench.waits import WaitsSizes, asking_line, counted, describe_waits, row_of
from nat.config import to_plain
from nat.data.batch import Source
from nat.errors import ConfigError

CPU = torch.device("cpu")
SMALL = {"vocabulary_size": 300, "num_layers": 1, "dim": 16, "num_heads": 2, "ffn_dim": 16}


def test_decoders_translate_alone_and_in_batches() -> None:
    sizes = DecodingSizes(sentences=2, batch_size=4, batches=2, **SMALL)
    rows = measure_decoding(sizes, CPU)
    assert [row["name"] for row in rows] == sizes.contenders
    greedy, beam, ctc, mask_predict = rows
    assert greedy["passes"] == beam["passes"] > 10 and ctc["passes"] == 1 and mask_predict["passes"] == 4
    for row in rows:
        assert row["milliseconds_alone"] <= row["milliseconds_alone_95"] and row["peak_megabytes"] is None
        assert row["sentences_per_second"] > 0
    # as long as their sources, so that they can be compared
    lengths = [row["tokens_per_second"] / row["sentences_per_second"] for row in (greedy, beam, mask_predict)]
    assert lengths == pytest.approx([lengths[0]] * 3, rel=0.1) and lengths[0] > 10
    figures = {"sizes": to_plain(sizes), "results": rows, "device": "cpu", "num_threads": 1, "torch": "2"}
    assert describe_decoding(figures).startswith("| decoder | alone, ms | 95 % | sentences/s |")


def test_cuda_graphs_are_refused_by_name_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match=r"^contenders=ctc graphs: CUDA graphs need a GPU, device=cuda$"):
        measure_decoding(DecodingSizes(contenders=["ctc", "ctc graphs"], **SMALL), CPU)


def test_systems_that_translate_text() -> None:
    systems = text_systems()
    assert {"ctc", "kermit", "ctc with glancing"} <= set(systems) and "pointer" not in systems


def test_waits_are_counted_where_nat_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU that is not there: every look at a source's lengths is said to wait."""
    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    lengths = Source.lengths.fget  # type: ignore[attr-defined]

    def waiting(source: Source) -> torch.Tensor:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=2)
        warnings.warn("something else", stacklevel=2)
        return lengths(source)  # type: ignore[no-any-return]

    monkeypatch.setattr(Source, "lengths", property(waiting))
    row = row_of("mask_predict", WaitsSizes(**SMALL), CPU)
    assert row["loss"] > 0 and row["update"] >= row["loss"] and row["decode"] > 0 and row["passes"] == 4
    assert sum(row["loss_places"].values()) == row["loss"]
    assert all(place.endswith(tuple("0123456789")) and ".py:" in place for place in row["loss_places"])
    assert modes[-1] == "default" and "warn" in modes
    table = describe_waits({"results": [row], "device": "cpu", "torch": "2"})
    assert f"| mask_predict | {row['loss']} | {row['update']} |" in table and "loss of mask_predict: " in table


def test_a_system_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "counted", lambda places: 1 / 0)
    row = row_of("ctc", WaitsSizes(**SMALL), CPU)
    assert row["loss"] is None and row["loss_error"] == "ZeroDivisionError: division by zero"
    assert "ctc, loss: ZeroDivisionError" in describe_waits({"results": [row], "device": "cpu", "torch": "2"})


def test_a_wait_outside_nat_is_elsewhere() -> None:
    assert asking_line() == "elsewhere"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
        patch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
        places: collections.Counter[str] = collections.Counter()
        with counted(places):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert places == {"elsewhere": 1}
