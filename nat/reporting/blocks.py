"""What README.md and docs/results say of the project's own figures: a block of Markdown for each."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nat.reporting.tables import COLUMNS, systems_table
from nat.table import UNKNOWN, markdown_table, rounded

Figures = dict[str, Any]  # of a block, as docs/results/NAME.json holds them, or a row of them
LINEAR_TIME = (
    "local", "strided", "global", "longformer", "bigbird", "linformer", "compressed", "linear", "efficient",
    "random_feature", "performer",
)  # fmt: skip
FAST_STUDENT = "bash scripts/fast_student.sh"
EDITED = {  # nat-edit's figures of drafts
    "teacher_bleu": "BLEU of the teacher",
    "draft_bleu": "spoiled",
    "edited_bleu": "edited",
    "edited_passes": "passes",
}
BETWEEN = ("reformer", "routing", "sinkhorn")
GROUPS = {"linear": LINEAR_TIME, "between": BETWEEN, "square": ("synthesizer_dense", "synthesizer_random")}


def span(values: Iterable[float], digits: int) -> str:
    """The least and the most."""
    low, high = min(known := list(values)), max(known)
    return f"{low:.{digits}f} to {high:.{digits}f}"


def source(rows: Sequence[Figures], command: str, *, seed: str = "training_seed") -> str:
    """What every figure needs beside it."""
    machines = ", ".join(dict.fromkeys(str(row["machine"]) for row in rows))
    seeds = ", ".join(dict.fromkeys(str(row[seed]) for row in rows if row[seed] is not None))
    return f"`{command}`, {machines}, seed {seeds}, {max(str(row['date']) for row in rows)[:10]}"


def paragraph(*parts: str) -> str:
    return textwrap.fill(" ".join(parts), 118, break_long_words=False, break_on_hyphens=False)


def measured(rows: Sequence[Figures]) -> str:
    """How scores and times of a report's rows came about."""
    first = rows[0]
    return paragraph(
        f"{first['num_sentences']} test sentences ({first['num_dropped']} left out). ms alone: median of",
        f"{first['num_timed_alone']} sentences, each by itself on one thread, the systems taking turns; sentences/s:",
        f"batches of {first['batch_size']}, threads: {first['num_threads']}. BLEU: `{first['bleu_signature']}`; chrF:",
        f"`{first['chrf_signature']}`.",
    )


def quickstart(figures: Figures) -> str:
    rows = figures["rows"]
    minutes = ", ".join(f"{row['name']} {row['training_minutes']:.0f} min" for row in rows)
    made = f"{source(rows, 'bash scripts/quickstart.sh')}; training: {minutes}."
    narrow = [column for column in COLUMNS if column[0] not in ("p95", "M parameters")]  # 120 columns of text
    return "\n\n".join([systems_table(rows, narrow), paragraph(made, measured(rows))])


def whole(figures: Figures) -> str:
    rows = figures["rows"]
    trained = {
        row["model"]: f"{row['training_updates']} updates, {row['training_tokens'] / 1e6:.1f} M target tokens, "
        f"{row['training_minutes']:.0f} min"
        for row in rows
    }
    budgets = "; ".join(f"{model}: {text}" for model, text in trained.items())
    made = source(rows, "bash scripts/reproduce_small.sh; bash scripts/results_page.sh")
    introduction = paragraph(f"**The whole corpus** ({made}). {budgets}.")
    return "\n\n".join([introduction, systems_table(rows), measured(rows)])


def fast(figures: Figures) -> str:
    """The fast student and its teacher's engine."""
    rows = {row["name"]: row for row in figures["rows"]}
    student, greedy, beam = (
        rows[name]
        for name in ("student ONNX int8", "teacher greedy CTranslate2 int8", "teacher beam 4 CTranslate2 int8")
    )
    times = [other["ms_per_sentence_p50"] / student["ms_per_sentence_p50"] for other in (greedy, beam)]
    rates = [student["sentences_per_second"] / other["sentences_per_second"] for other in (greedy, beam)]
    cost = rows["student ONNX"]["bleu"] - student["bleu"]
    introduction = paragraph(
        f"**The fast student** (`small/ctc_fast`, exported to int8; {source(figures['rows'], FAST_STUDENT)}): alone",
        f"{times[0]:.1f} times as fast as its teacher in CTranslate2 int8 with greedy search and {times[1]:.1f} times",
        f"as fast as with beam 4, in batches {rates[0]:.1f} and {rates[1]:.1f} times, on one core;",
        f"{student['bleu'] - greedy['bleu']:+.1f} BLEU beside greedy search. int8 costs it {cost:.1f} BLEU. Training:",
        f"teacher {rows['teacher greedy']['training_minutes']:.0f} min,",
        f"student {rows['student']['training_minutes']:.0f} min.",
    )
    narrow = [column for column in COLUMNS if column[0] not in ("p95", "repetition %", "passes", "M parameters")]
    table = systems_table(figures["rows"], narrow)
    return "\n\n".join([introduction, table, measured(figures["rows"]), *fast_steps(figures["steps"])])


def fast_steps(rows: Sequence[Figures]) -> tuple[str, str]:
    """What each step to the fast student gives. rows: each with one step more than the one before."""
    before = [None, *(row["bleu"] for row in rows[:-1])]
    cells = [
        [
            row["name"],
            str(row["training_updates"]),
            rounded(row["bleu"], 2),
            UNKNOWN if bleu is None else f"{row['bleu'] - bleu:+.2f}",
            rounded(row["ms_per_sentence_p50"], 2),
            rounded(row["sentences_per_second"], 0),
        ]
        for row, bleu in zip(rows, before, strict=True)
    ]
    heads = ["each with one step more", "updates", "BLEU", "gain", "ms alone p50", "sentences/s"]
    return "What each step gives, all on the distilled corpus and in int8:", markdown_table(heads, cells)


def engines(figures: Figures) -> str:
    """The student in int8 over CTranslate2 in int8, against the width."""
    rows = [row for row in figures["results"] if row["name"] == "student-onnx-int8"]
    baselines = list(rows[0]["times_as_fast"])
    sizes = figures["sizes"]
    cells = [
        [
            str(row["dim"]),
            *(f"{row['times_as_fast'][name][kind]:.2f}" for name in baselines for kind in ("alone", "batches")),
            rounded(row["ms_alone"], 2),
            rounded(row["sentences_per_second"], 0),
        ]
        for row in rows
    ]
    over = [
        f"over {name.removeprefix('ctranslate2-int8-')}, {kind}" for name in baselines for kind in ("alone", "batches")
    ]
    made = f"`{FAST_STUDENT}`, {figures['machine']}, one thread, seed 1, {figures['date'][:10]}"
    introduction = paragraph(
        f"**From which width on a single pass pays** ({made}): a student of",
        f"{sizes['encoder_layers']}+{sizes['slot_layers']} layers in ONNX Runtime int8,",
        "how many times as fast as CTranslate2 int8 in greedy search, alone and in batches of",
        f"{sizes['batch_size']}; V={sizes['vocabulary_size']}, {sizes['source_length']} source and",
        f"{sizes['target_length']} target tokens, untrained weights, CPU time, medians of {figures['repeats']} rounds",
        "([picture](engines.svg)).",
    )
    return "\n\n".join([introduction, markdown_table(["D", *over, "ms alone", "sentences/s"], cells)])


def paired(rows: Sequence[Figures]) -> dict[str, dict[str, Figures]]:
    """By the system's name without its text, the rows of both texts; a row without a text is of the raw one."""
    pairs: dict[str, dict[str, Figures]] = {}
    for row in rows:
        name, _, text = row["name"].rpartition(" ")
        if text not in ("raw", "distilled"):
            name, text = row["name"], "raw"
        pairs.setdefault(name, {})[text] = row
    return pairs


def gain(pairs: Mapping[str, Mapping[str, Figures]], better: str, worse: str, text: str = "distilled") -> str:
    return f"{pairs[better][text]['bleu'] - pairs[worse][text]['bleu']:+.1f}"


def systems(figures: Figures) -> str:
    rows = figures["rows"]
    pairs = paired(rows)
    single = ["vanilla", "vanilla glancing", "vanilla deep", "fertility argmax", "CTC", "CTC glancing", "CTC deep"]
    gains = [pairs[name]["distilled"]["bleu"] - pairs[name]["raw"]["bleu"] for name in single]
    updates = statistics.mode(row["training_updates"] for row in rows)
    minutes = span([row["training_minutes"] for row in rows if row["training_updates"] == updates], 0)
    made = source(rows, "bash scripts/compare_systems.sh; bash scripts/results_page.sh")
    introduction = paragraph(
        f"**Every system with one budget** ({made}): sentences of at most 12 words, {updates} updates of 512 target",
        f"tokens each ({minutes} minutes), from the teacher's weights; the teacher learnt from the whole corpus.",
        f"Distilled over raw text: {min(gains):+.1f} to {max(gains):+.1f} BLEU for single-pass systems; NPD with 10",
        f"candidates over its argmax {gain(pairs, 'fertility NPD 10', 'fertility argmax')}; 4 passes of Mask-Predict",
        f"over one {gain(pairs, 'Mask-Predict 4', 'Mask-Predict 1')}; glancing CTC over CTC",
        f"{gain(pairs, 'CTC glancing', 'CTC')} ({gain(pairs, 'CTC glancing', 'CTC', 'raw')} on raw text); 4 passes of",
        f"the Imputer over its CTC parent {gain(pairs, 'Imputer 4', 'CTC')}.",
    )
    headings = ["system", "BLEU raw", "BLEU distilled", "chrF", "passes", "ms alone p50", "sentences/s"]
    rest = paragraph(measured(rows), "chrF, passes and speed: of the distilled run where there is one.")
    table = markdown_table(headings, [pair_cells(*pair) for pair in pairs.items()])
    return "\n\n".join([introduction, table, rest])


def single(figures: Figures) -> str:
    return of_seeds(figures, "Single-pass systems", "bash scripts/compare_single_pass.sh")


def few(figures: Figures) -> str:
    """With how they mend drafts, nat-edit's figures by system and seed."""
    cells = [
        [f"`small/{name}`", *(rounded(statistics.mean(row[key] for row in rows), 2) for key in EDITED)]
        for name, rows in figures["edits"].items()
    ]
    systems = of_seeds(figures, "Systems of a few passes", "bash scripts/compare_few_pass.sh")
    mended = paragraph(
        "**Post-editing** (`nat-edit`): the teacher's translations, a fifth of whose words are dropped or replaced,",
        "before and after; means of the two seeds.",
    )
    return "\n\n".join([systems, mended, markdown_table(["recipe", *EDITED.values()], cells)])


def of_seeds(figures: Figures, what: str, command: str) -> str:
    """Systems with several seeds: a row's name ends with its text and its seed."""
    groups: dict[str, list[Figures]] = {}
    for row in figures["rows"]:
        groups.setdefault(row["name"].rpartition(" ")[0], []).append(row)
    cells = [
        [
            name,
            ", ".join(rounded(row["bleu"], 2) for row in rows),
            rounded(statistics.mean(row["bleu"] for row in rows), 2),
            rounded(statistics.mean(row["chrf"] for row in rows), 2),
            rounded(statistics.mean(row["length_ratio"] for row in rows), 3),
        ]
        for name, rows in groups.items()
    ]
    claims: dict[str, list[Figures]] = {}
    for finding in figures["claims"]:
        better, worse = (finding["claim"][side].rpartition(" ")[0] for side in ("better", "worse"))
        claims.setdefault(f"{better} over {worse}", []).append(finding)
    gains = {
        name: ", ".join(f"{each['better'] - each['worse']:+.2f} (p {each['p_value']:.3f})" for each in seeds)
        for name, seeds in claims.items()
    }
    made = source(figures["rows"], command)
    introduction = paragraph(
        f"**{what}, two seeds** ({made}): the budget of the table above. BLEU by seed, p by paired",
        f"bootstrap resampling: {'; '.join(f'{name} {text}' for name, text in gains.items())}.",
    )
    headings = ["system and text", "BLEU", "mean", "chrF", "length ratio"]
    first = figures["rows"][0]
    signatures = f"BLEU: `{first['bleu_signature']}`; chrF: `{first['chrf_signature']}`."
    rest = paragraph(f"{first['num_sentences']} test sentences.", signatures)
    return "\n\n".join([introduction, markdown_table(headings, cells), rest])


def pair_cells(name: str, texts: Mapping[str, Figures]) -> list[str]:
    bleu = [rounded(texts[text]["bleu"], 2) if text in texts else UNKNOWN for text in ("raw", "distilled")]
    shown = texts.get("distilled", texts.get("raw", {}))
    rest = (("chrf", 2), ("passes", 1), ("ms_per_sentence_p50", 1), ("sentences_per_second", 0))
    return [name, *bleu, *(rounded(shown[field], digits) for field, digits in rest)]


def attention(figures: Figures) -> str:
    kinds = figures["kinds"]
    exponents = {name: kind["time_exponent"] for name, kind in kinds.items()}
    quick = (*LINEAR_TIME, *BETWEEN)
    speed = {n: span((1 / kinds[name]["time_ratio"][n] for name in quick), 1) for n in ("8192", "16384")}
    recall = sorted(kinds, key=lambda name: -kinds[name]["recall"])
    shown = ", ".join(f"{name} {100 * kinds[name]['recall']:.0f}" for name in recall)
    growth = {group: span((exponents[name] for name in names), 2) for group, names in GROUPS.items()}
    return paragraph(
        f"Measured (`CTC=RUN bash scripts/compare_attention.sh`, {figures['machine']}, {figures['num_threads']}",
        f"thread, seed 1, {figures['date'][:10]}; one layer, forward and backward, D {figures['dim']}, medians of",
        f"{figures['repeats']}): time grows as",
        f"N^{exponents['full']:.2f} for full attention, as N^{growth['linear']} for `{' '.join(LINEAR_TIME)}`",
        f"(compressed: its factor growing with N), N^{growth['between']} for `{' '.join(BETWEEN)}`,",
        f"N^{growth['square']} for the Synthesizers. At 8,192 tokens every kind but these is {speed['8192']} times",
        f"as fast as full `scaled_dot_product_attention`, at 16,384 {speed['16384']} times. What is paid for it, in",
        "questions about",
        f"words far away in 256 that are answered right, %: {shown}.",
    )


def points(figures: Figures) -> str:
    rows = figures["rows"]

    def cells(row: Figures) -> list[str]:
        ten, fifty = row["10"], row["50"]
        return [
            f"`{row['name']}`, {row['updates']} updates, {row['minutes']:.0f} min",
            f"{ten['accuracy']:.1f} %",
            f"{ten['area']:.2f} %",
            f"{fifty['accuracy']:.1f} %",
            f"{fifty['area']:.2f} %",
            f"{fifty['invalid']:.1f} %",
            rounded(fifty["ms_per_sentence_p50"], 1),
        ]

    headings = ["model", "exact hulls, 10 points", "area", "exact, 50 points (never seen)", "area"]
    headings += ["polygons not simple, 50 points", "ms alone, 50 points"]
    made = source(rows, "nat-train experiment=MODEL; bash scripts/results_page.sh", seed="seed")
    introduction = f"Measured ({made}; trained on 5-20 points; {rows[0]['10']['num_sentences']} test sets each):"
    return "\n\n".join([paragraph(introduction), markdown_table(headings, [cells(row) for row in rows])])


def modes(figures: Figures) -> str:
    rows = figures["rows"]

    def cells(row: Figures) -> list[str]:
        shares = [rounded(row[name], 1, 100) for name in ("mixing", "floor", "excess", "repetition_rate")]
        return [row["name"], rounded(row["bleu"], 2), *shares, rounded(row["passes"], 1)]

    headings = ["system", "BLEU", "mixing %", "floor %", "above it %", "repetition %", "passes"]
    introduction = paragraph(
        f"English to German, French and Spanish at once ({source(rows, 'bash scripts/study_multimodality.sh')};",
        f"{figures['num_sentences']} test sentences; [the triangles](simplex.png), [all",
        "figures](study.md)). BLEU: against the reference in the language that a translation chose;",
        "mixing: words in another language than the sentence's; floor: what the references score.",
    )
    table = markdown_table(headings, [cells(row) for row in rows])
    return "\n\n".join([introduction, table, claims_paragraph(figures["claims"])])


def claims_paragraph(claims: Sequence[Figures]) -> str:
    """What is said in the literature of who mixes more, and what was measured."""
    kept = [claim for claim in claims if claim["holds"] and claim["p_value"] < 0.05]
    others = [
        f"{claim['claim']} ({' and '.join(rounded(value, 1, 100) for value in claim['excess'])} %)"
        for claim in claims
        if claim not in kept
    ]
    return paragraph(
        f"Of {len(claims)} expectations of who mixes more, {len(kept)} hold (p < 0.05, paired bootstrap).",
        f"The others: {'; '.join(others)}." if others else "",
    )


BLOCKS: dict[str, Callable[[Figures], str]] = {
    "quickstart": quickstart,
    "systems": systems,
    "single": single,
    "few": few,
    "whole": whole,
    "fast": fast,
    "engines": engines,
    "attention": attention,
    "points": points,
    "modes": modes,
}
