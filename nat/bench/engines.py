"""nat-bench engines: a single-pass student beside the engine that a user would take instead, on the same core.

The student is CTC with late upsampling and a factored blank; the teachers are those that CTranslate2 runs, with 6+6 and
with 12+1 layers (Kasai et al. 2021, https://arxiv.org/abs/2006.10369; Helcl et al. 2022,
https://arxiv.org/abs/2205.01966). The weights are untrained, for speed does not depend on them, but for lengths: the
teachers are made to write as many tokens as is asked for, and half of the student's slots are blank.

Or two run folders, on the test text of the teacher's corpus, from text to text.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nat.bench.engine_contenders import (
    BASELINES,
    OF_RUNS,
    RUN_BASELINES,
    STUDENTS,
    Contender,
    EngineSizes,
    Round,
    Translate,
    contenders,
    rounds_of_text,
    rounds_of_tokens,
    run_contenders,
)
from nat.drawing.chart import Chart, Guide, Series
from nat.drawing.charts import draw
from nat.drawing.style import write_svg
from nat.progress import Progress
from nat.table import markdown_table, rounded


def measure_engines(
    sizes: EngineSizes, *, repeats: int, keep: Callable[[list[dict[str, Any]]], object] = lambda rows: None
) -> list[dict[str, Any]]:
    """A row of each contender and width. Of one width all take turns. keep: hears of the rows so far."""
    if sizes.student is not None:
        contenders_of_runs, sentences = run_contenders(sizes)
        with Progress("measure", total=len(OF_RUNS) * (repeats + 1), unit="turns") as progress:
            rows = measure_turns(contenders_of_runs, rounds_of_text(sentences, repeats + 1), progress)
        return with_ratios(rows, RUN_BASELINES)
    rows = []
    with Progress("measure", total=len(sizes.dims) * len(sizes.contenders) * (repeats + 1), unit="turns") as progress:
        for dim in sizes.dims:
            with tempfile.TemporaryDirectory(prefix="nat-engines-") as folder:
                those = list(contenders(sizes, dim, Path(folder)))
                rows += with_ratios(measure_turns(those, rounds_of_tokens(sizes, repeats + 1), progress), BASELINES)
            keep(rows)
    if sizes.picture is not None:
        write_svg(draw(chart_of(rows)), Path(sizes.picture))
    return rows


def measure_turns(contenders: Sequence[Contender], rounds: Iterable[Round], progress: Progress) -> list[dict[str, Any]]:
    """Medians of CPU time over the rounds, in each of which every contender translates all; the first warms up.

    Sentences alone come last in a turn: before them the caches hold what another contender computed."""
    alone: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number, work in enumerate(rounds):
        for contender in contenders:
            seconds = cpu_seconds(contender.together, work.together)
            times = [cpu_seconds(contender.alone, sentence) for sentence in work.alone]
            if number:
                alone[contender.name].append(statistics.mean(times))
                rates[contender.name].append(work.size / seconds)
            progress.advance(1, f"{contender.name}, D={contender.dim}")
    return [
        {
            "name": contender.name,
            "dim": contender.dim,
            "ms_alone": 1000.0 * statistics.median(alone[contender.name]),
            "sentences_per_second": statistics.median(rates[contender.name]),
        }
        for contender in contenders
    ]


def cpu_seconds(translate: Translate, sentences: Any) -> float:
    """Of all threads of this process, so that what else the machine does counts little."""
    began = time.process_time()
    translate(sentences)
    return time.process_time() - began


def with_ratios(rows: Sequence[dict[str, Any]], baselines: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of one width with how many times as fast as each baseline they are."""
    others = [row for row in rows if row["name"] in baselines]
    return [
        row
        | {
            "times_as_fast": {
                other["name"]: {
                    "alone": other["ms_alone"] / row["ms_alone"],
                    "batches": row["sentences_per_second"] / other["sentences_per_second"],
                }
                for other in others
            }
        }
        for row in rows
    ]


def describe_engines(figures: Mapping[str, Any]) -> str:
    """The ratios, then the figures, with what one needs to judge them."""
    sizes, rows = figures["sizes"], figures["results"]
    columns = [(name, kind) for name in rows[-1]["times_as_fast"] for kind in ("alone", "batches")]
    ratios = [
        [str(row["dim"]), row["name"], *(f"{row['times_as_fast'][name][kind]:.2f}" for name, kind in columns)]
        for row in rows
    ]
    plain = [
        [str(row["dim"]), row["name"], rounded(row["ms_alone"], 2), rounded(row["sentences_per_second"], 0)]
        for row in rows
    ]
    heads = ["D", "times as fast as", *(f"{name.removeprefix('ctranslate2-')}, {kind}" for name, kind in columns)]
    untrained = (
        f"V={sizes['vocabulary_size']}, {sizes['source_length']} source and {sizes['target_length']} target tokens, "
        f"student of {sizes['encoder_layers']}+{sizes['slot_layers']} layers, untrained weights"
    )
    runs = f"student {sizes['student']}, teacher {sizes['teacher']}, its test text, from text to text"
    return (
        f"{markdown_table(heads, ratios)}\n\n{markdown_table(['D', '', 'ms alone', 'sentences/s'], plain)}\n\n"
        f"CPU time, medians of {figures['repeats']} rounds, taking turns; batches of {sizes['batch_size']}; "
        f"CTranslate2 in greedy search where nothing else is said; {untrained if sizes['student'] is None else runs}; "
        f"{figures['machine']}, one thread, torch {figures['torch']}\n"
    )


def chart_of(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """How many times as fast as each baseline the int8 student is, against the width."""
    student = [row for row in rows if row["name"] == STUDENTS[0]]
    series = [
        Series(
            number=number,
            name=f"{kind}, over {baseline}",
            family=baseline,
            points=[(row["dim"], row["times_as_fast"][baseline][kind]) for row in student],
            notes=[""] * len(student),
        )
        for number, (kind, baseline) in enumerate(
            ((kind, baseline) for kind in ("alone", "batches") for baseline in student[0]["times_as_fast"]), start=1
        )
    ]
    dims = [row["dim"] for row in student]
    return Chart(
        name="engines",
        title="Speed of a single pass in int8 over CTranslate2 int8, greedy",
        caption="One core; above the line the single pass is faster.",
        x="width D",
        y="times as fast",
        series=series,
        x_base=2,
        y_base=2,
        guide=Guide("equally fast", [(min(dims), 1.0), (max(dims), 1.0)]),
    )
