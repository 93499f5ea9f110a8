"""The clock: what is timed, in which order, on how many threads. Fake translators with known times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import Decoded
from nat.decoding.candidates import Choice
from nat.decoding.translator import Translator, load
from nat.evaluation import speed
from nat.evaluation.speed import measure_speed, spread, threads, time_alone
from nat.evaluation.system import Scorer, System
from nat.models.options import DecodingOptions

OPTIONS = DecodingOptions()


class Fake(Translator):
    """Translates by sleeping; writes down what it was asked, with how many threads. As a teacher, it sleeps too."""

    def __init__(self, name: str, log: list[tuple[str, list[str], int, int]], milliseconds: float = 0.0) -> None:
        self.name, self.log, self.milliseconds = name, log, milliseconds
        self.device, self.tokenizers = torch.device("cpu"), cast(Any, SimpleNamespace(source=self, target=self))

    def decode(self, rows: Sequence[Any], **options: Any) -> Any:
        if "decoding" not in options:  # the tokenizer's part
            return ["text" for _ in rows]
        assert torch.is_inference_mode_enabled()
        self.log.append((self.name, list(rows), options["batches"].batch_size, torch.get_num_threads()))
        time.sleep(self.milliseconds / 1000)
        return [Decoded([[8], [8, 8]], [0.0, -1.0], 1, False) for _ in rows]

    def encode(self, sentences: Sequence[str], name: str) -> list[list[int]]:
        return [[8] for _ in sentences]

    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, batch_size: int = 64, max_tokens: int | None = None
    ) -> list[float]:
        self.log.append((self.name, list(sources), batch_size, torch.get_num_threads()))
        time.sleep(self.milliseconds / 1000)
        return [-1.0 for _ in sources]


def fake(name: str, log: list[tuple[str, list[str], int, int]], milliseconds: float = 0.0, **options: Any) -> System:
    return System(name, Fake(name, log, milliseconds), OPTIONS, **options)


def test_systems_take_turns_after_a_warm_up() -> None:
    log: list[tuple[str, list[str], int, int]] = []
    milliseconds = time_alone([fake("A", log), fake("B", log)], [*"abcdefghijkl"])
    assert "".join(name for name, *_ in log[6:]) == "A" * 11 + "B" * 11 + "A" * 3 + "B" * 3
    assert "".join(row for _, (row,), *_ in log[6:]) == "aabcdefghij" * 2 + "kkl" * 2  # the first of a turn warms up
    assert [len(times) for times in milliseconds] == [12, 12]
    assert {batch_size for *_, batch_size, _ in log} == {1}


def test_alone_is_one_thread_and_the_threads_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: current[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: current.__setitem__(0, number))
    log: list[tuple[str, list[str], int, int]] = []
    found = measure_speed(fake("A", log, batches=BatchOptions(2)), ["x", "y"])
    assert {number for _, rows, _, number in log if len(rows) == 1} == {1}
    assert log[-1] == ("A", ["x", "y"], 2, 3)
    assert (found.num_threads, current) == (3, [3])


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt), threads(before + 1):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before


def test_milliseconds_are_milliseconds() -> None:
    found = measure_speed(fake("A", [], 20.0, batches=BatchOptions(5)), ["x"] * 5, num_alone=3)
    assert 20 <= found.ms_per_sentence_p50 <= found.ms_per_sentence_p95 < 200
    assert 25 < found.sentences_per_second <= 250  # 5 in one batch of 20 ms
    assert (found.num_sentences, found.num_alone, found.batch_size, found.device) == (5, 3, 5, "cpu")


def test_the_teachers_choice_is_timed_and_scores_for_the_report_are_not() -> None:
    for choice, least in ((Choice.TEACHER, 30.0), (Choice.FIRST, 10.0)):
        log: list[tuple[str, list[str], int, int]] = []
        system = fake("A", log, 10.0, choice=choice, scorer=Scorer("B", Fake("B", log, 20.0)), batches=BatchOptions(5))
        found = measure_speed(system, ["x"] * 5, num_alone=2)
        assert found.ms_per_sentence_p50 >= least
        assert found.sentences_per_second <= 5 / least * 1000
        assert {name for name, *_ in log} == ({"A", "B"} if choice is Choice.TEACHER else {"A"})


def test_percentiles() -> None:
    times = [float(i) for i in range(1, 102)]
    found = speed.Speed.of(times, seconds=2.0, num_sentences=10, batch_size=4, device=torch.device("cpu"))
    assert (found.ms_per_sentence_p50, found.ms_per_sentence_p95, found.sentences_per_second) == (51.0, 96.0, 5.0)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "a"), (2, "af"), (5, "acegi"), (10, "abcdefghij"), (99, "abcdefghij"), (0, "")]
)
def test_spread(count: int, expected: str) -> None:
    assert spread("abcdefghij", count) == list(expected)


def test_spread_of_nothing() -> None:
    assert spread([], 3) == []


def test_a_real_run(tiny_runs: dict[str, Path]) -> None:
    translator = load(tiny_runs["ctc"], device="cpu")
    sentences = ["Click OK.", "Opens a file.", "Closes the window."]
    found = measure_speed(System("ctc", translator, translator.decoding({}), BatchOptions(2)), sentences)
    assert 0 < found.ms_per_sentence_p50 <= found.ms_per_sentence_p95
    assert found.sentences_per_second > 0
