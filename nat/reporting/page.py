"""The page of a report: one HTML file that asks no host for anything. What it shows is in results.json, figures.json
and histories/ beside it; templates, style and the viewer's script are in page_parts/."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nat.decoding.history import CandidateHistory, Pass, SentenceHistory, finite
from nat.drawing.chart import Chart
from nat.files import to_json
from nat.reporting.figures import pareto_front
from nat.reporting.tables import Row, model_name
from nat.table import rounded

PARTS = "page_parts"
MOST_VIEWED = 3_000_000  # bytes of the viewer's data
CANVASES = 8  # candidates whose passes the page keeps; of the others it keeps text and scores
COLUMNS = (  # heading, what it is, field of a row, digits, factor
    ("BLEU", "sacreBLEU; its signature is below the table", "bleu", 2, 1.0),
    ("chrF", "sacreBLEU's chrF2", "chrf", 2, 1.0),
    ("passes", "decoder calls of a sentence, mean", "passes", 2, 1.0),
    ("ms alone", "milliseconds of a sentence by itself, median", "ms_per_sentence_p50", 1, 1.0),
    ("95 %", "milliseconds of a sentence by itself, 95th percentile", "ms_per_sentence_p95", 1, 1.0),
    ("sent./s", "sentences a second, in batches", "sentences_per_second", 0, 1.0),
    ("length ratio", "words of the translations over words of the references", "length_ratio", 3, 1.0),
    ("repeated %", "words that equal the word before them", "repetition_rate", 2, 100.0),
    ("unknown %", "tokens that are <unk>", "unknown_rate", 2, 100.0),
    ("M param.", "millions of parameters", "num_parameters", 2, 1e-6),
    ("M tokens", "millions of target tokens in training", "training_tokens", 2, 1e-6),
    ("minutes", "of training", "training_minutes", 0, 1.0),
    ("seed", "of training", "training_seed", 0, 1.0),
)
MACHINE = ("machine", "device", "num_threads", "batch_size")  # what timed a system
SENTENCE = ("index", "source", "reference", "chosen", "num_passes", "truncated")
SCORES = ("score", "mean_score", "teacher_score", "utility")


def render(
    rows: Sequence[Row],
    charts: Sequence[Chart],
    drawn: Mapping[str, str] | None,
    histories: Mapping[str, Sequence[SentenceHistory]],
    *,
    text: str,
    command: str,
) -> str:
    """The page. drawn: <svg> elements by name of a chart, None where nothing could be drawn. histories: by system."""
    templates = Environment(
        loader=PackageLoader("nat.reporting", PARTS), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    viewer, left_out = viewer_data(rows, histories)
    return templates.get_template("index.html.j2").render(
        style=part("style.css"),
        script=part("viewer.js"),
        columns=COLUMNS,
        table=[table_row(i, row, front(rows)) for i, row in enumerate(rows, start=1)],
        signatures=[
            (score, signature)
            for score, name in (("BLEU", "bleu_signature"), ("chrF", "chrf_signature"))
            for signature in distinct(row[name] for row in rows)
        ],
        machines=distinct({name: row[name] for name in MACHINE} for row in rows),
        versions=distinct(row["versions"] for row in rows),
        charts=charts,
        drawn=None if drawn is None else {name: Markup(svg) for name, svg in drawn.items()},
        viewer=viewer,
        left_out=left_out,
        first=rows[0],
        text=text,
        command=command,
    )


def part(name: str) -> Markup:
    """A file of ours, as it is."""
    return Markup((files("nat.reporting") / PARTS / name).read_text(encoding="utf-8"))


# --- the table -------------------------------------------------------------------------------------


def front(rows: Sequence[Row]) -> tuple[int, ...]:
    """Numbers of the systems that are on a Pareto front of quality and one of the two speeds."""
    known = {i: row for i, row in enumerate(rows, start=1) if row["bleu"] is not None}
    alone = {i: (row["ms_per_sentence_p50"], row["bleu"]) for i, row in known.items()}
    together = {i: (-row["sentences_per_second"], row["bleu"]) for i, row in known.items()}
    return tuple(sorted({*pareto_front(alone), *pareto_front(together)}))


def table_row(number: int, row: Row, best: Sequence[int]) -> dict[str, Any]:
    return {
        "number": number,
        "name": row["name"],
        "model": model_name(row),
        "front": number in best,
        "cells": [rounded(row[name], digits, factor) for _, _, name, digits, factor in COLUMNS],
        "decoding": ", ".join(f"{name}={value}" for name, value in row["decoding"].items() if value is not None),
        "run_dir": row["run_dir"],
        "trained_on": " ".join(str(row[name]) for name in ("training_device", "training_precision") if row[name]),
    }


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each once, in order; no None."""
    kept: list[Any] = []
    for value in values:
        if value is not None and value not in kept:
            kept.append(value)
    return kept


# --- the viewer ------------------------------------------------------------------------------------


def viewer_data(
    rows: Sequence[Row], histories: Mapping[str, Sequence[SentenceHistory]]
) -> tuple[list[dict[str, Any]], int]:
    """What the script reads, and how many sentences were left out so that the page stays small."""
    most = max((len(sentences) for sentences in histories.values()), default=0)
    for count in range(most, 0, -1):
        data = [
            {
                "name": row["name"],
                "model": row["model"],
                "sentences": [viewed(sentence) for sentence in histories[row["name"]][:count]],
            }
            for row in rows
        ]
        if len(to_json(data).encode()) <= MOST_VIEWED:
            return data, most - count
    return [], most


def viewed(sentence: SentenceHistory) -> dict[str, Any]:
    order = [sentence.chosen, *(k for k in range(len(sentence.candidates)) if k != sentence.chosen)]
    shown = set(order[:CANVASES])
    candidates = [viewed_candidate(item, k in shown) for k, item in enumerate(sentence.candidates)]
    return {name: getattr(sentence, name) for name in SENTENCE} | {"candidates": candidates}


def viewed_candidate(item: CandidateHistory, with_passes: bool) -> dict[str, Any]:
    """passes are left out where there are none to see. collapsed: the tokens, where the last canvas is not yet them."""
    passes = item.passes if with_passes else []
    is_canvas = bool(passes) and passes[-1].left != item.tokens
    return {
        "text": item.text,
        **{name: finite(getattr(item, name)) for name in SCORES},
        "passes": [viewed_pass(each) for each in passes],
        "collapsed": item.tokens if is_canvas else None,
    }


def viewed_pass(each: Pass) -> dict[str, Any]:
    """t: tokens. p: probability of each when it was written. f: the first letters of the fates. l: steps of a graph."""
    links = [(origin, goal, finite(math.exp(score))) for origin, goal, score in each.links]
    return ({"l": links} if links else {}) | {
        "t": each.tokens,
        "p": [finite(math.exp(value)) for value in each.confidence],
        "f": "".join(fate.name[0].lower() for fate in each.fate),
    }
