"""The figures of README.md and docs/, from run folders: python scripts/readme_figures.py [RUNS [PAGE]]

RUNS (by default `runs`) is where the other scripts write: small/, quickstart/, attention/, hull/, multimodality/; PAGE
(RUNS/page) is what scripts/results_page.sh wrote. What is shown of them goes to docs/results/NAME.json, with date,
machine, seed and command, and from there between `<!-- NAME -->` and `<!-- /NAME -->` of the one page that has them,
README.md or one of docs/results. What is not in RUNS stays as it is. --check: writes nothing; exit code 1 if a page is
not what docs/results holds.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nat.files import read_json, write_json, write_text
from nat.reporting.tables import systems_table
from nat.table import markdown_table, rounded

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
Row = dict[str, Any]
KEPT = (  # fields of a system's row
    "name", "model", "engine", "bleu", "chrf", "bleu_signature", "chrf_signature", "length_ratio", "repetition_rate",
    "passes", "ms_per_sentence_p50", "ms_per_sentence_p95", "sentences_per_second", "speedup", "num_parameters",
    "num_sentences", "num_dropped", "num_timed_alone", "batch_size", "num_threads", "machine", "date",
    "training_updates", "training_tokens", "training_minutes", "training_seed",
)  # fmt: skip
LINEAR_TIME = (
    "local", "strided", "global", "longformer", "bigbird", "linformer", "compressed", "linear", "efficient",
    "random_feature", "performer",
)  # fmt: skip
BETWEEN = ("reformer", "routing", "sinkhorn")
GROUPS = {"linear": LINEAR_TIME, "between": BETWEEN, "square": ("synthesizer_dense", "synthesizer_random")}


# --- from run folders --------------------------------------------------------------------------------


def slim(path: Path) -> list[Row]:
    """The rows of a results.json."""
    return [{name: row.get(name) for name in KEPT} for row in read_json(path)]


def collect(runs: Path, page: Path) -> dict[str, Any]:
    """By block, what there is in the run folders."""
    found: dict[str, Any] = {}
    for name, path in (
        ("quickstart", runs / "quickstart" / "results.json"),
        ("systems", page / "results.json"),
        ("whole", page / "whole" / "results.json"),
    ):
        if path.exists():
            found[name] = {"rows": slim(path)}
    if (runs / "attention" / "attention.json").exists():
        found["attention"] = attention_figures(runs / "attention")
    points = [row for name in ("hull", "hull_parallel") for row in pointer_rows(runs / name, page / "points")]
    if points:
        found["points"] = {"rows": points}
    if (runs / "multimodality" / "study" / "study.json").exists():
        found["modes"] = mode_figures(read_json(runs / "multimodality" / "study" / "study.json"))
    return found


def attention_figures(folder: Path) -> dict[str, Any]:
    figures = read_json(folder / "attention.json")
    kinds = {
        row["name"]: {
            "time_exponent": row["time_exponent"],
            "time_ratio": {str(point["length"]): point["time_ratio"] for point in row["points"]},
        }
        for row in figures["results"]
    }
    for name, kind in kinds.items():
        decoded = folder / "decoded" / f"{name}.txt.json"
        kind["recall"] = read_json(decoded)["exact_match"] if decoded.exists() else None
    keys = ("date", "machine", "num_threads", "repeats")
    return {"kinds": kinds, "dim": figures["sizes"]["dim"]} | {key: figures[key] for key in keys}


def pointer_rows(run: Path, decoded: Path) -> list[Row]:
    """What nat-decode wrote of a run at 10 and at 50 points."""
    paths = {points: decoded / f"{run.name}-{points}.txt.json" for points in (10, 50)}
    if not all(path.exists() for path in paths.values()):
        return []
    training, reports = read_json(run / "run.json"), {points: read_json(path) for points, path in paths.items()}
    row: Row = {
        "name": {"hull": "small/pointer", "hull_parallel": "small/pointer_parallel"}[run.name],
        "updates": training["update"],
        "minutes": training["seconds"] / 60,
        "seed": training["seed"],
    }
    for points, report in reports.items():
        row[str(points)] = {
            name: report[name] for name in ("accuracy", "area", "invalid", "ms_per_sentence_p50", "num_sentences")
        }
    return [row | {"machine": reports[50]["machine"], "date": reports[50]["date"]}]


def mode_figures(study: Mapping[str, Any]) -> dict[str, Any]:
    keys = (
        "name", "training_text", "bleu", "mixing", "mixing_error", "floor", "excess", "excess_error", "repetition_rate",
        "passes", "sentences_by_language", "machine", "date",
    )  # fmt: skip
    rows = []
    for row in study["systems"]:
        seed = read_json(Path(row["run_dir"]) / "run.json")["seed"]
        rows.append({key: row[key] for key in keys} | {"training_seed": seed})
    shared = ("claims", "training_texts", "num_sentences", "accuracy")
    return {"rows": rows} | {key: study[key] for key in shared}


# --- blocks ------------------------------------------------------------------------------------------


def span(values: Iterable[float], digits: int) -> str:
    """The least and the most."""
    low, high = min(known := list(values)), max(known)
    return f"{low:.{digits}f} to {high:.{digits}f}"


def source(rows: Sequence[Row], command: str, *, seed: str = "training_seed") -> str:
    """What every figure needs beside it."""
    machines = ", ".join(dict.fromkeys(str(row["machine"]) for row in rows))
    seeds = ", ".join(dict.fromkeys(str(row[seed]) for row in rows if row[seed] is not None))
    return f"`{command}`, {machines}, seed {seeds}, {max(str(row['date']) for row in rows)[:10]}"


def paragraph(*parts: str) -> str:
    return textwrap.fill(" ".join(parts), 160, break_long_words=False, break_on_hyphens=False)


def measured(rows: Sequence[Row]) -> str:
    """How scores and times of a report's rows came about."""
    first = rows[0]
    return paragraph(
        f"{first['num_sentences']} test sentences ({first['num_dropped']} left out). ms alone: median of",
        f"{first['num_timed_alone']} sentences, each by itself on one thread, the systems taking turns; sentences/s:",
        f"batches of {first['batch_size']}, threads: {first['num_threads']}. BLEU: `{first['bleu_signature']}`; chrF:",
        f"`{first['chrf_signature']}`.",
    )


def quickstart(figures: Row) -> str:
    rows = figures["rows"]
    minutes = ", ".join(f"{row['name']} {row['training_minutes']:.0f} min" for row in rows)
    made = f"{source(rows, 'bash scripts/quickstart.sh')}; training: {minutes}."
    return "\n".join([systems_table(rows), "", paragraph(made, measured(rows))])


def whole(figures: Row) -> str:
    rows = figures["rows"]
    trained = {
        row["model"]: f"{row['training_updates']} updates, {row['training_tokens'] / 1e6:.1f} M target tokens, "
        f"{row['training_minutes']:.0f} min"
        for row in rows
    }
    told = "; ".join(f"{model}: {text}" for model, text in trained.items())
    made = source(rows, "bash scripts/reproduce_small.sh; bash scripts/results_page.sh")
    return "\n".join(
        [paragraph(f"**The whole corpus** ({made}). {told}."), "", systems_table(rows), "", measured(rows)]
    )


def paired(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """By the system's name without its text, the rows of both texts; a row without a text is of the raw one."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        name, _, text = row["name"].rpartition(" ")
        if text not in ("raw", "distilled"):
            name, text = row["name"], "raw"
        found.setdefault(name, {})[text] = row
    return found


def gain(pairs: Mapping[str, Mapping[str, Row]], better: str, worse: str, text: str = "distilled") -> str:
    return f"{pairs[better][text]['bleu'] - pairs[worse][text]['bleu']:+.1f}"


def systems(figures: Row) -> str:
    rows = figures["rows"]
    pairs = paired(rows)
    single = ["vanilla", "vanilla glancing", "vanilla deep", "fertility argmax", "CTC", "CTC glancing", "CTC deep"]
    gains = [pairs[name]["distilled"]["bleu"] - pairs[name]["raw"]["bleu"] for name in single]
    minutes = span([row["training_minutes"] for row in rows if row["training_updates"] == 1500], 0)
    made = source(rows, "bash scripts/compare_systems.sh; bash scripts/results_page.sh")
    found = paragraph(
        f"**Every system with one budget** ({made}): sentences of at most 12 words, 1500 updates of 512 target tokens",
        f"each ({minutes} minutes), from the teacher's weights; the teacher learnt from the whole corpus. Distilled",
        f"over raw text: {min(gains):+.1f} to {max(gains):+.1f} BLEU for single-pass systems; NPD with 10 candidates",
        f"over its argmax {gain(pairs, 'fertility NPD 10', 'fertility argmax')}; 4 passes of Mask-Predict over one",
        f"{gain(pairs, 'Mask-Predict 4', 'Mask-Predict 1')}; glancing CTC over CTC",
        f"{gain(pairs, 'CTC glancing', 'CTC')} ({gain(pairs, 'CTC glancing', 'CTC', 'raw')} on raw text); 4 passes of",
        f"the Imputer over its CTC parent {gain(pairs, 'Imputer 4', 'CTC')}.",
    )
    headings = ["system", "BLEU raw", "BLEU distilled", "chrF", "passes", "ms alone p50", "sentences/s"]
    rest = paragraph(measured(rows), "chrF, passes and speed: of the distilled run where there is one.")
    return "\n".join([found, "", markdown_table(headings, [pair_cells(*pair) for pair in pairs.items()]), "", rest])


def pair_cells(name: str, texts: Mapping[str, Row]) -> list[str]:
    bleu = [rounded(texts[text]["bleu"], 2) if text in texts else "-" for text in ("raw", "distilled")]
    shown = texts.get("distilled", texts.get("raw", {}))
    rest = (("chrf", 2), ("passes", 1), ("ms_per_sentence_p50", 1), ("sentences_per_second", 0))
    return [name, *bleu, *(rounded(shown[field], digits) for field, digits in rest)]


def attention(figures: Row) -> str:
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


def points(figures: Row) -> str:
    rows = figures["rows"]

    def cells(row: Row) -> list[str]:
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
    told = f"Measured ({made}; trained on 5-20 points; {rows[0]['10']['num_sentences']} test sets each):"
    return "\n".join([paragraph(told), "", markdown_table(headings, [cells(row) for row in rows])])


def modes(figures: Row) -> str:
    rows = figures["rows"]

    def cells(row: Row) -> list[str]:
        shares = [rounded(row[name], 1, 100) for name in ("mixing", "floor", "excess", "repetition_rate")]
        return [row["name"], rounded(row["bleu"], 2), *shares, rounded(row["passes"], 1)]

    headings = ["system", "BLEU", "mixing %", "floor %", "above it %", "repetition %", "passes"]
    told = paragraph(
        f"English to German, French and Spanish at once ({source(rows, 'bash scripts/study_multimodality.sh')};",
        f"{figures['num_sentences']} test sentences; [the triangles](simplex.png), [all",
        "figures](study.md)). BLEU: against the reference in the language that a translation chose;",
        "mixing: words in another language than the sentence's; floor: what the references score.",
    )
    return "\n".join([told, "", markdown_table(headings, [cells(row) for row in rows]), "", judged(figures["claims"])])


def judged(claims: Sequence[Row]) -> str:
    """What is said in the literature of who mixes more, and what was found."""
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


BLOCKS: dict[str, Callable[[Row], str]] = {
    "quickstart": quickstart,
    "systems": systems,
    "whole": whole,
    "attention": attention,
    "points": points,
    "modes": modes,
}


def escaped(text: str) -> str:
    """For a replacement, in which a backslash means something."""
    return text.replace("\\", "\\\\")


def pages() -> dict[Path, str]:
    """README.md and the pages of docs/results, with their text."""
    return {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(RESULTS.glob("*.md")))}


def rewritten(texts: Mapping[Path, str]) -> dict[Path, str]:
    """The pages with every block made anew from docs/results."""
    renewed = dict(texts)
    for name, block in BLOCKS.items():
        figures = RESULTS / f"{name}.json"
        if not figures.exists():
            continue
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        homes = [path for path, text in renewed.items() for _ in pattern.findall(text)]
        if len(homes) != 1:
            sys.exit(
                f"<!-- {name} --> ... <!-- /{name} -->: in {len(homes)} places of README.md and docs/results, not one"
            )
        text = block(read_json(figures))
        renewed[homes[0]] = pattern.sub(rf"\g<1>{escaped(text)}\g<2>", renewed[homes[0]])
    return renewed


def main(arguments: Sequence[str]) -> None:
    if list(arguments) == ["--check"]:
        texts = pages()
        stale = [str(path) for path, text in rewritten(texts).items() if text != texts[path]]
        sys.exit(f"{', '.join(stale)}: not what docs/results holds" if stale else 0)
    runs = Path(arguments[0] if arguments else "runs")
    page = Path(arguments[1]) if len(arguments) > 1 else runs / "page"
    for name, figures in collect(runs, page).items():
        write_json(RESULTS / f"{name}.json", figures)
        print(f"{RESULTS / name}.json")
    study = runs / "multimodality" / "study"
    for origin, name in (
        (page / "index.html", "page.html"), (study / "simplex.png", "simplex.png"), (study / "study.md", "study.md"),
    ):  # fmt: skip
        if origin.exists():
            shutil.copyfile(origin, RESULTS / name)
    for path, text in rewritten(pages()).items():
        write_text(path, text)


if __name__ == "__main__":
    main(sys.argv[1:])
