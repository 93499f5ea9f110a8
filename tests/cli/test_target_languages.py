"""A model that writes several languages, from nat-train to the server, as users type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders import command, distil, distilled_lines

import nat
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.data.tags import TargetTags
from nat.errors import ConfigError
from nat.serving import run as serving
from nat.serving.config import ServeConfig
from nat.serving.models import Options, open_translator

pytestmark = pytest.mark.timeout(300)
LINES = ["Click OK.", "", "Choose the menu item to insert a new table."]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "four.tsv"
    rows = [line for line in read_lines(embedded_directory() / "lohelp4" / "valid.tsv.gz") if len(line) < 200]
    path.write_text("".join(f"{row}\n" for row in rows[:80]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(text: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ctc"
    options = [word for word in small if not word.startswith("data.")]
    places = [f"data.{split}={text}" for split in ("train", "valid", "test")]
    words = ["data=lohelp4_tagged", *places, "data.tokenizer.vocabulary_size=250", "data.max_words=null"]
    assert command(*options, *words, "model=ctc", f"run_dir={folder}") == 0
    return folder


def decoded(run: Path, source: Path, *words: str) -> list[str]:
    output = source.with_suffix(".out")
    assert command(f"run_dir={run}", f"source={source}", f"output={output}", "speed=false", *words, name="decode") == 0
    return output.read_text(encoding="utf-8").splitlines()


def tagged(lines: list[str], language: str) -> list[str]:
    return [f"<{language}> {line}" if line else "" for line in lines]


def test_the_language_is_named_or_stands_in_the_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("\n".join(LINES) + "\n")
    (tmp_path / "tagged").write_text("\n".join(tagged(LINES, "fr")) + "\n")
    expected = decoded(run, tmp_path / "tagged")
    assert decoded(run, tmp_path / "plain", "target=fr") == expected
    assert decoded(run, tmp_path / "plain", "target=fr", "shard_size=2") == expected
    french = nat.load(run).to_language("fr")
    assert french.translate(LINES) == expected
    assert french.translate(LINES) != french.to_language("es").translate(LINES)
    assert french.score(LINES[:1], ["x"]) == nat.load(run).score(tagged(LINES[:1], "fr"), ["x"])


def test_each_pair_of_a_split_is_scored_with_its_own_reference(run: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for words, number in (([], 3), (["data.target=fr"], 1)):
        decode = [f"run_dir={run}", f"output={output}", "speed=false", "overwrite=true", *words]
        assert command(*decode, name="decode") == 0
        report = json.loads(Path(f"{output}.json").read_text())
        assert report["num_sentences"] == number * 79 == len(output.read_text().splitlines())


def test_what_is_distilled_is_what_a_student_reads(run: Path, small: list[str], tmp_path: Path) -> None:
    output = tmp_path / "distilled"
    assert distil(f"teacher={run}", f"output={output}", "split=valid", "shard_size=50") == 0
    lines = distilled_lines(output)
    assert len(lines) == 3 * 79 and lines[0]["en"].startswith("<de> ") and lines[1]["en"].startswith("<fr> ")
    sources = [line["en"] for line in lines[:6]]
    assert [line["de+fr+es"] for line in lines[:6]] == nat.load(run).translate(sources, allow_unknown=False)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["bleu_against_original"] == pytest.approx(bleu_of(run, tmp_path / "all"))
    student = tmp_path / "student"
    options = [word for word in small if not word.startswith("data.")]
    words = ["data=lohelp4_tagged", f"data.train={output}/train.jsonl", f"data.tokenizer.path={run}/tokenizer"]
    assert command(*options, *words, "model=ctc", f"run_dir={student}") == 0
    assert len(nat.load(student).to_language("de").translate(LINES)) == 3


def bleu_of(run: Path, output: Path) -> float:
    words = [f"run_dir={run}", f"output={output}", "speed=false", "decoding.allow_unknown=false", "split=valid"]
    assert command(*words, name="decode") == 0
    return float(json.loads(Path(f"{output}.json").read_text())["bleu"])


def test_an_export_is_told_the_language_too(run: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path / "graph"
    assert command(f"run_dir={run}", f"output={folder}", "precision=fp32", "max_sentences=9", name="export") == 0
    expected = nat.load(run).to_language("es").translate(LINES)
    assert nat.load(folder).to_language("es").translate(LINES) == expected
    for place in (run, folder):
        served = open_translator(str(place), num_threads=1).to_language("es")
        served.check(LINES, Options())
        assert served.translate(LINES, [Options()] * 3) == expected
    script = [sys.executable, folder / "translate.py"]
    given = "\n".join(tagged(LINES, "es")) + "\n"
    done = subprocess.run(script, input=given, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines() == expected
    refused = subprocess.run(script, input="Click OK.\n", capture_output=True, text=True)
    assert refused.returncode == 1 and "line 1: must begin with <de> or <fr> or <es> , the" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source={source}"], "line 1: does not say which language is wanted; name it, for example target=de"),
        (["source={source}", "target=it"], "target=it: the model does not write it, known: de, es, fr"),
        (["split=valid", "target=fr"], "target=fr: needs source=FILE; of a split, data.target names one"),
    ],
)
def test_a_language_that_cannot_be_written_is_refused(
    words: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.write_text("Click OK.\n")
    given = [f"run_dir={run}", *(word.format(source=source) for word in words), f"output={tmp_path / 'out'}"]
    assert command(*given, name="decode") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_of_one_language_has_none_to_choose(tiny_runs: dict[str, Path]) -> None:
    """On a server it may be called as one likes."""
    with pytest.raises(ConfigError, match=r"target=fr: has no effect, \S+ writes one language \(de\)"):
        nat.load(tiny_runs["ctc"]).to_language("fr")
    expected = nat.load(tiny_runs["ctc"]).translate(["Open"])
    served = open_translator(str(tiny_runs["ctc"]), num_threads=1).to_language("it")
    assert served.translate(["Open"], [Options()]) == expected


def test_a_server_opens_a_model_once_for_all_its_languages(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(serving, "open_translator", lambda folder, **options: opened.append(folder) or Served())
    with pytest.raises(ConfigError, match=f"models=en-it={run}: target=it: the model does not write it"):
        serving.serve(ServeConfig(models=[f"en-{name}={run}" for name in ("de", "fr", "it")]))
    assert opened == [str(run)]


class Served:
    def to_language(self, language: str) -> Served:
        TargetTags(("de", "fr", "es")).to(language)
        return self
