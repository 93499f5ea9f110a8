"""The figures of README.md and docs/, from run folders: python -m nat.reporting.published [--check] [RUNS [PAGE]]

To be run in the repository, as scripts/results_page.sh does. RUNS (by default `runs`) is where the other scripts write:
small/, quickstart/, attention/, hull/, multimodality/; PAGE (RUNS/page) is what scripts/results_page.sh wrote. What is
shown of them goes to docs/results/NAME.json, with date, machine, seed and command, and from there between
`<!-- NAME -->` and `<!-- /NAME -->` of the one page that has them, README.md or one of docs/results. What is not in
RUNS stays as it is.
--check: writes nothing; exit code 1 if a page is not what docs/results holds.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nat.errors import DataError
from nat.files import read_json, write_json, write_text
from nat.reporting.blocks import BLOCKS, EDITED, Figures

README, RESULTS = Path("README.md"), Path("docs", "results")
KEPT = (  # fields of a system's row
    "name", "model", "engine", "precision", "bleu", "chrf", "bleu_signature", "chrf_signature", "length_ratio",
    "repetition_rate", "passes", "ms_per_sentence_p50", "ms_per_sentence_p95", "sentences_per_second", "speedup",
    "num_parameters", "num_sentences", "num_dropped", "num_timed_alone", "batch_size", "num_threads", "machine", "date",
    "training_updates", "training_tokens", "training_minutes", "training_seed",
)  # fmt: skip


# --- from run folders --------------------------------------------------------------------------------


def slim(path: Path) -> list[Figures]:
    """The rows of a results.json."""
    return [{name: row.get(name) for name in KEPT} for row in read_json(path)]


def collect(runs: Path, page: Path) -> dict[str, Figures]:
    """By block, what there is in the run folders."""
    blocks: dict[str, Figures] = {}
    for name, path in (
        ("quickstart", runs / "quickstart" / "results.json"),
        ("systems", page / "results.json"),
        ("whole", page / "whole" / "results.json"),
        ("fast", runs / "small" / "fast-report" / "results.json"),
    ):
        if path.exists():
            blocks[name] = {"rows": slim(path)}
    if (runs / "small" / "fast-steps" / "results.json").exists():
        blocks["fast"]["steps"] = slim(runs / "small" / "fast-steps" / "results.json")
    if (runs / "small" / "engines.json").exists():
        blocks["engines"] = read_json(runs / "small" / "engines.json")
    for name in ("single", "few"):
        report = runs / "small" / name / "report"
        if (report / "results.json").exists():
            blocks[name] = {"rows": slim(report / "results.json"), "claims": read_json(report / "claims.json")}
    if "few" in blocks:
        blocks["few"]["edits"] = edit_figures(runs / "small" / "few" / "edit")
    if (runs / "attention" / "attention.json").exists():
        blocks["attention"] = attention_figures(runs / "attention")
    points = [row for name in ("hull", "hull_parallel") for row in pointer_rows(runs / name, page / "points")]
    if points:
        blocks["points"] = {"rows": points}
    if (runs / "multimodality" / "study" / "study.json").exists():
        blocks["modes"] = mode_figures(read_json(runs / "multimodality" / "study" / "study.json"))
    return blocks


def edit_figures(folder: Path) -> dict[str, list[Figures]]:
    """By system what nat-edit wrote of drafts, a row for each seed: files NAME-SEED.json."""
    systems: dict[str, list[Figures]] = {}
    for path in sorted(folder.glob("*.json")):
        figures = read_json(path)
        systems.setdefault(path.stem.rpartition("-")[0], []).append({key: figures[key] for key in EDITED})
    return systems


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


def pointer_rows(run: Path, decoded: Path) -> list[Figures]:
    """What nat-decode wrote of a run at 10 and at 50 points."""
    paths = {points: decoded / f"{run.name}-{points}.txt.json" for points in (10, 50)}
    if not all(path.exists() for path in paths.values()):
        return []
    training, reports = read_json(run / "run.json"), {points: read_json(path) for points, path in paths.items()}
    row: Figures = {
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


# --- the pages ---------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """README.md and the pages of docs/results, with their text."""
    return {path: path.read_text(encoding="utf-8") for path in (README, *sorted(RESULTS.glob("*.md")))}


def renewed(texts: Mapping[Path, str]) -> dict[Path, str]:
    """The pages with every block made anew from docs/results. Raises DataError for a block that no page has, or
    several."""
    texts = dict(texts)
    for name, block in BLOCKS.items():
        if not (RESULTS / f"{name}.json").exists():
            continue
        pattern = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- /{name} -->)", re.DOTALL)
        homes = [(path, match) for path, text in texts.items() for match in pattern.finditer(text)]
        if len(homes) != 1:
            raise DataError(
                f"<!-- {name} --> ... <!-- /{name} -->: in {len(homes)} places of README.md and docs/results, not one"
            )
        path, match = homes[0]
        text = block(read_json(RESULTS / f"{name}.json"))
        texts[path] = texts[path][: match.start()] + text + texts[path][match.end() :]
    return texts


def check() -> None:
    """Raises DataError where a page is not what docs/results holds."""
    texts = pages()
    stale = [str(path) for path, text in renewed(texts).items() if text != texts[path]]
    if stale:
        raise DataError(f"{', '.join(stale)}: not what docs/results holds")


def renew(runs: Path, page: Path) -> None:
    """docs/results, and then the pages."""
    for name, figures in collect(runs, page).items():
        write_json(RESULTS / f"{name}.json", figures)
        print(RESULTS / f"{name}.json")
    study = runs / "multimodality" / "study"
    for origin, name in (
        (page / "index.html", "page.html"), (runs / "small" / "engines.svg", "engines.svg"),
        (study / "simplex.png", "simplex.png"), (study / "study.md", "study.md"),
    ):  # fmt: skip
        if origin.exists():
            shutil.copyfile(origin, RESULTS / name)
    for path, text in renewed(pages()).items():
        write_text(path, text)


def main(arguments: Sequence[str]) -> None:
    runs = Path(arguments[0] if arguments else "runs")
    try:
        if list(arguments) == ["--check"]:
            check()
        else:
            renew(runs, Path(arguments[1]) if len(arguments) > 1 else runs / "page")
    except DataError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
