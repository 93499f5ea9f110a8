"""nat-modes, and what comes before it, as a user runs them: several target columns from training to the study."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import workers

import nat
from nat.cli.decode import main as decode
from nat.cli.distill import main as distill
from nat.cli.modes import main
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.errors import ConfigError
from nat.evaluation.inputs import Split, read_split
from nat.studies.cloze import read_pairs
from nat.studies.modes import study as work
from nat.studies.modes.languages import Languages
from nat.studies.modes.mixing import Contents, mixing

NAMES = ["de", "fr", "es"]
QUICK = ("device=cpu", "plots=false", "alignments=false")


def run(*arguments: str, command: Any = main) -> int:
    with pytest.raises(SystemExit) as stop:
        command([*arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 rows in four languages, of which a few have a target of more than 9 words."""
    rows = (line.split("\t") for line in read_lines(embedded_directory() / "lohelp4" / "valid.tsv.gz"))
    chosen = [row for row in rows if all(2 <= len(text.split()) <= 10 for text in row) or row[0] == "en"][:151]
    folder = tmp_path_factory.mktemp("texts")
    (folder / "original").mkdir()
    (folder / "original" / "all.tsv").write_text("".join("\t".join(row) + "\n" for row in chosen), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(texts: Path) -> dict[str, Path]:
    """A run on the original text, and one on the text of a teacher that always writes German; a dozen updates each."""
    original = texts / "original" / "all.tsv"
    options = [
        "experiment=tiny", "data=lohelp4_multitarget", "data.max_words=9", "data.tokenizer.vocabulary_size=300",
        f"data.valid={original}", f"data.test={original}", "model.size={dim: 16, num_heads: 2, ffn_dim: 32}",
        "trainer={max_updates: 12, tokens_per_update: 300, save_every: 12, device: cpu}",
        "validation={every: 12, max_sentences: 20}",
    ]  # fmt: skip
    found = {name: texts / name for name in ("raw", "distilled")}
    train(found["raw"], "autoregressive", original, options)
    taught = texts / "taught" / "train.jsonl"
    taught.parent.mkdir()
    lines = [json.dumps({"en": row["en"], "de+fr+es": row["de"]}) + "\n" for row in rows_of(texts) for _ in NAMES]
    taught.write_text("".join(lines), encoding="utf-8")
    train(found["distilled"], "ctc", taught, [*options, f"data.tokenizer.path={found['raw']}/tokenizer"])
    return found


def train(folder: Path, model: str, text: Path, options: list[str]) -> None:
    log = folder.parent / f"{folder.name}.log"
    arguments = [*options, f"model={model}", f"data.train={text}", f"run_dir={folder}"]
    assert workers.finish(workers.start(workers.command, arguments, str(log)), 280) == 0, log.read_text()


def rows_of(texts: Path) -> list[dict[str, str]]:
    """The rows all of whose targets have at most 9 words."""
    lines = (texts / "original" / "all.tsv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    return [row for row in rows if all(len(text.split()) <= 9 for text in row.values())]


# --- training, distillation and decoding -----------------------------------------------------------


def test_every_target_of_a_source_gets_the_teachers_one_translation(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "distilled"
    options = ["decoding.beam_size=2", "data.limit=60", "shard_size=50", "device=cpu"]
    assert run(f"teacher={runs['raw']}", f"output={out}", *options, command=distill) == 0
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    by_line: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        by_line.setdefault(line["line"], []).append({key: line[key] for key in ("en", "de+fr+es", "score", "rank")})
    assert all(copy == copies[0] for copies in by_line.values() for copy in copies)
    assert len(lines) == manifest["pairs"]["kept"] == 60
    assert 20 <= len(by_line) < 30
    assert manifest["bleu_signature"].startswith(("nrefs:3", "nrefs:var"))
    teacher = nat.load(runs["raw"])
    sources = [copies[0]["en"] for copies in by_line.values()][:5]
    found = teacher.translate(sources, beam_size=2)
    assert found == [copies[0]["de+fr+es"] for copies in by_line.values()][:5]


def test_a_source_is_decoded_once_and_scored_against_all(
    texts: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.txt"
    assert run(f"run_dir={runs['raw']}", f"output={out}", "speed=false", "device=cpu", command=decode) == 0
    report = json.loads((tmp_path / "out.txt.json").read_text(encoding="utf-8"))
    outputs = out.read_text(encoding="utf-8").splitlines()
    lines = (texts / "original" / "all.tsv").read_text(encoding="utf-8").splitlines()[1:]
    kept = []
    for source, *targets in (line.split("\t") for line in lines):
        short = [text if len(text.split()) <= 9 else None for text in targets]
        if len(source.split()) <= 9 and any(short):
            kept.append(sorted(short, key=lambda text: text is None))
    assert len(outputs) == report["num_sentences"] == len(kept)
    streams: Any = [list(stream) for stream in zip(*kept, strict=True)]
    assert report["bleu"] == pytest.approx(sacrebleu.corpus_bleu(outputs, streams).score)
    assert report["bleu_signature"].startswith("nrefs:var")
    validated = [json.loads(line) for line in (runs["raw"] / "metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in validated if line.get("bleu_signature") and line.get("update") == 12]
    assert last["bleu_signature"].startswith(("nrefs:3", "nrefs:var"))
    first = json.loads((runs["raw"] / "samples.json").read_text(encoding="utf-8"))
    samples = first["samples"] if isinstance(first, dict) else first
    assert len({sample["source"] for sample in samples}) == len(samples) == 4


def test_what_needs_one_target_refuses_several(runs: dict[str, Path]) -> None:
    translator = nat.load(runs["raw"], device="cpu")
    with pytest.raises(ConfigError, match=r"^direction=backward: reads one target of a source, here are several"):
        read_split(translator, Split.TEST, {}).swapped()
    with pytest.raises(ConfigError, match=r"^data\.target: gaps are filled in pairs of one source and one target"):
        read_pairs(translator, Split.TEST, {})
    one = read_split(translator, Split.TEST, {"target": "fr"})
    assert one.swapped().sources == one.references


# --- the study -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(runs: dict[str, Path], texts: Path) -> Path:
    out = texts / "study"
    systems = f"run_dirs=[{runs['raw']}?beam_size=2&name=beam 2|x,{runs['raw']},{runs['distilled']}?name=reference.fr]"
    assert run(systems, f"output={out}", "claims=['raw > reference.fr','reference.fr > beam 2|x']", "device=cpu") == 0
    return out


def test_the_study_is_of_every_run_on_complete_sentences(folder: Path, texts: Path) -> None:
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    rows = rows_of(texts)
    assert found["languages"] == NAMES
    assert found["num_sentences"] == len(rows) < 150
    assert found["num_incomplete"] > 0
    assert [row["name"] for row in found["systems"]] == ["beam 2|x", "raw", "reference.fr"]
    assert [row["training_text"] for row in found["systems"]] == ["original", "original", "taught"]
    for name in ("source", *(f"reference.{language}" for language in NAMES)):
        lines = (folder / "outputs" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert lines == [row[name.removeprefix("reference.").replace("source", "en")] for row in rows]


def test_its_figures_are_those_of_the_translations(folder: Path, texts: Path) -> None:
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    table = [line.split("\t") for line in (texts / "original" / "all.tsv").read_text(encoding="utf-8").splitlines()]
    columns = {name: [line[i] for line in table[1:]] for i, name in enumerate(table[0])}
    languages = Languages.learn({name: columns[name] for name in NAMES}, columns["en"], smoothing=1.0)
    rows = rows_of(texts)
    files = [f"outputs/{name}.txt" for name in ("beam_2_x", "raw", "reference.fr-2")]  # the reference has its own
    assert [row["output"] for row in found["systems"]] == files
    for row in found["systems"]:
        lines = (folder / row["output"]).read_text(encoding="utf-8").splitlines()
        contents = Contents.of(lines, languages)
        own = [rows[i][NAMES[number]] for i, number in enumerate(contents.main)]
        assert row["mixing"] == pytest.approx(mixing(contents))
        told = [line for line, telling in zip(own, contents.telling, strict=True) if telling]
        assert row["floor"] == pytest.approx(mixing(Contents.of(told, languages)))
        assert row["excess"] == pytest.approx(row["mixing"] - row["floor"])
        assert row["bleu"] == pytest.approx(sacrebleu.corpus_bleu(lines, [own]).score)
        every = [[line[name] for line in rows] for name in NAMES]
        assert row["bleu_all_references"] == pytest.approx(sacrebleu.corpus_bleu(lines, every).score)
        assert row["bleu_all_references_signature"].startswith("nrefs:3")
        assert sum(row["sentences_by_language"].values()) + row["num_untold"] == len(rows)
    for name, row in zip(NAMES, found["references"], strict=True):
        assert row["excess"] == 0
        assert row["mixing"] == pytest.approx(mixing(Contents.of([line[name] for line in rows], languages)))
    assert found["accuracy"]["words"]["accuracy"] > 0.95, "the references are in the training text"


def test_every_word_and_piece_has_its_language(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "languages" / "raw.jsonl").read_text(encoding="utf-8").splitlines()]
    outputs = (folder / "outputs" / "raw.txt").read_text(encoding="utf-8").splitlines()
    assert [line["translation"] for line in lines] == outputs
    for line in lines:
        assert len(line["words"]) == len(line["posteriors"])
        for (_, language), posterior in zip(line["words"], line["posteriors"], strict=True):
            assert sum(posterior) == pytest.approx(1, abs=1e-3)
            assert language in (None, NAMES[posterior.index(max(posterior))])
        assert "".join(piece for piece, _ in line["pieces"]).replace("▁", " ").split() == line["translation"].split()
    assert any(language for line in lines for _, language in line["pieces"])


def test_tables_claims_texts_and_picture(folder: Path) -> None:
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    tables = (folder / "study.md").read_text(encoding="utf-8")
    assert "| beam 2\\|x | original |" in tables
    assert f"| {100 * found['systems'][2]['mixing']:.2f} |" in tables
    assert "| references fr | - | - | - |" in tables
    for claim, row in zip(("raw > reference.fr", "reference.fr > beam 2\\|x"), found["claims"], strict=True):
        verdict = "holds" if row["excess"][0] > row["excess"][1] else "does not hold"
        assert f"| {claim} | {verdict} |" in tables
        assert 0 <= row["p_value"] <= 1
    assert [row["text"] for row in found["training_texts"]] == ["original", "taught"]
    original, taught = found["training_texts"]
    assert taught["complexity"] < original["complexity"]
    assert 0 <= original["faithfulness"] < taught["faithfulness"]
    assert "| tokens of | told as de |" in tables
    assert (folder / "simplex.png").read_bytes().startswith(b"\x89PNG")
    svg = (folder / "simplex.svg").read_text(encoding="utf-8")
    assert all(f">{name}<" in svg for name in ("beam 2|x", "raw", "reference.fr", "references"))


def test_what_is_not_wanted_is_left_out(runs: dict[str, Path], tmp_path: Path) -> None:
    assert run(f"run_dirs=[{runs['raw']}]", f"output={tmp_path}", "data.target=fr+de", *QUICK) == 0
    found = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert found["languages"] == ["fr", "de"]
    assert found["training_texts"] is None
    assert not (tmp_path / "simplex.png").exists()
    assert "complexity" not in (tmp_path / "study.md").read_text(encoding="utf-8")


REFUSALS = {
    "no runs": (["run_dirs=[]"], ["run_dirs=[]: at least one run folder is needed"]),
    "not given": (["split=test"], ["run_dirs", "a value is needed"]),
    "no run": (["run_dirs=[nowhere]"], ["nowhere", "not a run folder"]),
    "unknown claim": (["run_dirs=[RAW]", "claims=['raw > x']"], ["claims: 'raw > x' names 'x'"]),
    "one language": (
        ["run_dirs=[RAW]", "data.target=de"],
        ["data.target=de: several languages are needed, joined so: de+fr+es"],
    ),
    "unknown column": (["run_dirs=[RAW]", "data.target=de+it"], ["the header has no column 'it'"]),
    "two languages in a triangle": (
        ["run_dirs=[RAW]", "data.target=de+fr", "plots=true"],
        ["plots=true: the simplex is drawn of three languages, data.target names 2"],
    ),
    "languages of a distilled text": (
        ["run_dirs=[DISTILLED]"],
        ["train.jsonl line 1: no 'de'", "the training text of the first run", "data.train=FILE"],
    ),
    "a language without text": (
        ["run_dirs=[RAW]", "data.train=EMPTY"],
        ["data.train: has no word of language 'es'; its words cannot be told"],
    ),
    "no complete sentence": (
        ["run_dirs=[RAW]", "data.test=EMPTY"],
        ["split test: no sentence has a reference in each of de, fr, es"],
    ),
    "smoothing": (["run_dirs=[RAW]", "smoothing=0"], ["smoothing=0.0: must be more than 0"]),
    "tokenizer": (["run_dirs=[RAW]", "data.tokenizer.kind=bpe"], ["data.tokenizer.kind=bpe"]),
}


@pytest.mark.parametrize("case", REFUSALS, ids=REFUSALS.keys())
def test_refusals(case: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.tsv"
    empty.write_text("en\tde\tfr\tes\na cat\teine Katze\tun chat\t\n", encoding="utf-8")
    known = {"RAW": runs["raw"], "DISTILLED": runs["distilled"], "EMPTY": empty}
    arguments, parts = REFUSALS[case]
    for name, path in known.items():
        arguments = [word.replace(name, str(path)) for word in arguments]
    assert run(f"output={tmp_path}/out", *arguments, "device=cpu") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nat-modes: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == [empty]


@pytest.mark.parametrize(
    ("option", "package", "message"),
    [
        ("alignments=true", "has_aligner", "alignments=true: the package sil-thot is needed: pip install"),
        ("plots=true", "has_plots", "plots=true: matplotlib is missing; pip install"),
    ],
)
def test_packages_that_are_missing(
    option: str, package: str, message: str, runs: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from nat.drawing import style
    from nat.studies.modes import texts as module

    for place in (module, style, work):
        if hasattr(place, package):
            monkeypatch.setattr(place, package, lambda: False)
    assert run(f"run_dirs=[{runs['raw']}]", f"output={tmp_path}/a", option, "device=cpu") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert run(f"run_dirs=[{runs['raw']}]", f"output={tmp_path}/b", "device=cpu") == 0
    found = json.loads((tmp_path / "b" / "study.json").read_text(encoding="utf-8"))
    assert (found["training_texts"] is None) == (package == "has_aligner")
    assert (tmp_path / "b" / "simplex.png").exists() == (package == "has_aligner")


def test_the_same_name_in_two_folders_is_told_apart(runs: dict[str, Path]) -> None:
    from types import SimpleNamespace

    def system(train: str | None) -> Any:
        return SimpleNamespace(translator=SimpleNamespace(config={"data": {"train": train}}))

    from nat.studies.modes.texts import training_names

    systems = [system("embedded:lohelp4/train.tsv.gz"), system("runs/a/train.jsonl"), system("runs/a/train.jsonl")]
    assert training_names(systems) == ["lohelp4", "a", "a"]
    systems = [system("x/a/train.jsonl"), system("y/a/train.jsonl"), system("z/b/t.tsv")]
    assert training_names(systems) == ["x/a/train.jsonl", "y/a/train.jsonl", "b"]


def test_the_command_is_installed() -> None:
    text = (Path(work.__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'nat-modes = "nat.cli.modes:main"' in text
    assert sys.modules[main.__module__].HELP.startswith("nat-modes: ")
