"""The table of a report in Markdown, for a README, with what one needs to judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nat.engines.choice import Engine
from nat.evaluation.inputs import Text
from nat.runs.precision import Precision
from nat.table import markdown_table, rounded

Row = Mapping[str, Any]  # a system's row of results.json
Column = tuple[str, str, int, float]
COLUMNS: tuple[Column, ...] = (  # heading, field of a row, digits, factor
    ("BLEU", "bleu", 2, 1),
    ("chrF", "chrf", 2, 1),
    ("length ratio", "length_ratio", 3, 1),
    ("repetition %", "repetition_rate", 2, 100),
    ("ms alone p50", "ms_per_sentence_p50", 1, 1),
    ("p95", "ms_per_sentence_p95", 1, 1),
    ("speed-up", "speedup", 2, 1),
    ("sentences/s", "sentences_per_second", 1, 1),
    ("passes", "passes", 2, 1),
    ("M parameters", "num_parameters", 2, 1e-6),
)
CANDIDATE_COLUMNS: tuple[Column, ...] = (  # where a system has more than one
    ("candidates", "num_candidates", 2, 1),
    ("other chosen", "num_choice_differs", 0, 1),
    ("oracle BLEU", "oracle_bleu", 2, 1),
)


def describe_table(rows: Sequence[Row], text: Text) -> str:
    """A Markdown table, and below it what the numbers mean."""
    first = rows[0]
    columns = COLUMNS + (CANDIDATE_COLUMNS if any(row["num_candidates"] > 1 for row in rows) else ())
    return "\n".join(
        [
            systems_table(rows, columns),
            "",
            f"{text.name}, {first['num_sentences']} sentences ({first['num_dropped']} left out), {first['date'][:10]}. "
            f"ms alone: median and 95th percentile of {first['num_timed_alone']} sentences, each by itself on one "
            "thread, the systems taking turns; speed-up: ratio of the medians, the first system's over this one's. "
            f"sentences/s: batches of {', '.join(str(n) for n in sorted({row['batch_size'] for row in rows}))}, "
            f"{first['num_threads']} threads. Device: {first['device']}.",
            f"BLEU: `{first['bleu_signature']}`; chrF: `{first['chrf_signature']}`.",
            "",
        ]
    )


def systems_table(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS) -> str:
    """A line for each system."""
    cells = [
        [row["name"], model_name(row), *(rounded(row[name], digits, factor) for _, name, digits, factor in columns)]
        for row in rows
    ]
    return markdown_table(["system", "model", *(heading for heading, *_ in columns)], cells, text=(0, 1))


def model_name(row: Row) -> str:
    """Of a system's model, with the engine that is not our own and the precision that is not the usual one."""
    usual = {Engine.TORCH.value, Precision.FP32.value}
    said = [word for word in (row["engine"], row.get("precision")) if word and word not in usual]
    return row["model"] + (f" ({' '.join(said)})" if said else "")
