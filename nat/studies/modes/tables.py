"""The study's figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nat.studies.modes.mixing import NUM_RESAMPLES
from nat.table import UNKNOWN, markdown_table, rounded

Row = Mapping[str, Any]


def describe(figures: Row) -> str:
    """Systems and references, claims, how well languages are told, training texts; below each what it means."""
    parts = [systems_table(figures), claims_table(figures["claims"]), accuracy_table(figures)]
    parts.append(texts_table(figures["training_texts"]))
    return "\n".join(part for part in parts if part)


def percent(value: float | None, digits: int = 2) -> str:
    return rounded(value, digits, 100.0)


def systems_table(figures: Row) -> str:
    """A row for each system, then for the references of each language."""
    names = figures["languages"]
    headings = ["system", "trained on", "BLEU", "all references", "mixing %", "floor", "excess", "± s.e."]
    headings += [f"{name} %" for name in names] + ["repetition %"]
    rows = [system_cells(row, names) for row in [*figures["systems"], *figures["references"]]]
    first = figures["systems"][0]
    note = (
        f"{figures['text']}, {figures['num_sentences']} sentences with a reference in each of {', '.join(names)} "
        f"({figures['num_incomplete']} without left out), {first['date'][:10]}. BLEU: against the reference in the "
        f"main language of each translation, `{first['bleu_signature']}`; all references: "
        f"`{first['bleu_all_references_signature']}`. mixing: expected share of the words that are not in the main "
        "language of their sentence; floor: that of the references of the same sentences in the languages that the "
        f"system chose; excess: mixing above the floor; s.e.: its standard error, {NUM_RESAMPLES} bootstrap samples "
        f"of the sentences. {', '.join(f'{name} %' for name in names)}: sentences by their main language; the others "
        "have no word that tells one."
    )
    return f"{markdown_table(headings, rows, text=(0, 1))}\n\n{note}\n"


def system_cells(row: Row, names: Sequence[str]) -> list[str]:
    counts = row["sentences_by_language"]
    total = sum(counts.values()) + row["num_untold"]
    scores = [rounded(row.get(name), 2) for name in ("bleu", "bleu_all_references")]
    mixed = [percent(row[name]) for name in ("mixing", "floor", "excess", "excess_error")]
    shares = [percent(counts[name] / max(1, total), 1) for name in names]
    repetition = percent(row.get("repetition_rate"))
    return [row["name"], row.get("training_text", UNKNOWN), *scores, *mixed, *shares, repetition]


def claims_table(claims: Sequence[Row]) -> str:
    """Empty where there is none."""
    if not claims:
        return ""
    rows = []
    for claim in claims:
        values = ", ".join(percent(value) for value in claim["excess"])
        verdict = "holds" if claim["holds"] else "does not hold"
        rows.append([claim["claim"], verdict, values, rounded(claim["p_value"], 3)])
    note = f"mixes more: excess above the floor; p: paired bootstrap, {NUM_RESAMPLES} samples of the sentences."
    table = markdown_table(["mixes more", "", "excess %", "p"], rows, text=(0, 1))
    return f"{table}\n\n{note}\n"


def accuracy_table(figures: Row) -> str:
    """How well words, token pieces and sentences of the references are told, and the confusion of the pieces."""
    names, units = figures["languages"], figures["accuracy"]
    rows = []
    for unit, part in units.items():
        cells = [str(part["total"]), percent(part["telling"]), percent(part["accuracy"])]
        cells += [percent(part["accuracy_by_language"][name]) for name in names]
        rows.append([unit, *cells, percent(part["expected"])])
    headings = ["of the references", "number", "telling %", "right %", *(f"{name} right %" for name in names)]
    lines = [markdown_table([*headings, "expected right %"], rows)]
    confusion = units["tokens"]["confusion"]
    columns = [*names, "untold"]
    counts = [[name, *(str(confusion[name][column]) for column in columns)] for name in names]
    lines += ["", markdown_table(["tokens of", *(f"told as {name}" for name in names), "untold"], counts)]
    note = (
        f"telling: words and tokens of weight above {figures['telling_weight']:g} (1 - H(p) / log {len(names)}), "
        "sentences with any; right: share of these whose most probable language is the true one; expected right: mean "
        "posterior of the true language, over all."
    )
    return "\n".join([*lines, "", note, ""])


def texts_table(texts: Sequence[Row] | None) -> str:
    """Empty where nothing was aligned."""
    if texts is None:
        return ""
    rows = [
        [row["text"], str(row["num_pairs"]), str(row["num_source_words"])]
        + [rounded(row[name], 3) for name in ("complexity", "faithfulness")]
        for row in texts
    ]
    headings = ["training text", "pairs", "source words", "complexity C", "faithfulness F"]
    note = (
        "C: mean entropy of the target words aligned to a source word; F: mean KL divergence of these from the first "
        "text's, 0 is most faithful (Zhou et al. 2020, equations 3 and 4), in nats; aligned by fast_align's model."
    )
    return f"{markdown_table(headings, rows)}\n\n{note}\n"
