"""nat-lm, as a user runs it, and nat-decode with what it wrote."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import command

from nat.cli.decode import main as decode
from nat.cli.lm import main
from nat.data.tokenizer import Tokenizers
from nat.decoding.translator import load
from nat.errors import DataError
from nat.search.arpa import HEADER, read_arpa


def run(*arguments: str, entry: Any = main) -> int:
    with pytest.raises(SystemExit) as stop:
        entry([*arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def run_dir(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hardly trained: what it translates is for the language model to decide."""
    folder = tmp_path_factory.mktemp("runs") / "ctc"
    assert command(*small, "model=ctc", f"run_dir={folder}") == 0
    return folder


@pytest.fixture
def model(run_dir: Path, tmp_path: Path, capsys: Any) -> Path:
    """lm.arpa, and what nat-lm said in lm.txt beside it."""
    pytest.importorskip("nltk")
    path = tmp_path / "new" / "lm.arpa"
    capsys.readouterr()
    assert run(f"run_dir={run_dir}", f"output={path}", "order=2", "data.limit=100") == 0
    path.with_suffix(".txt").write_text(capsys.readouterr().out, encoding="utf-8")
    return path


def test_from_the_corpus_to_fused_translations(run_dir: Path, model: Path, tmp_path: Path) -> None:
    fingerprint = Tokenizers.load(run_dir / "tokenizer").fingerprint
    arpa = read_arpa(model)
    assert arpa.tokenizer == fingerprint and len(arpa.sections) == 2
    counts = ", ".join(f"{len(section.tokens)} {order}-grams" for order, section in enumerate(arpa.sections, 1))
    told = model.with_suffix(".txt").read_text(encoding="utf-8")
    assert re.fullmatch(rf"done: {model}: {counts} from 100 sentences, perplexity \d+\.\d\d on the valid split\n", told)

    def translate(*options: str) -> tuple[str, dict[str, Any]]:
        output = tmp_path / "out.txt"
        assert run(*common, *options, f"output={output}", entry=decode) == 0
        return output.read_text(encoding="utf-8"), json.loads(Path(f"{output}.json").read_text(encoding="utf-8"))

    common = (f"run_dir={run_dir}", "data.max_words=5", "speed=false", "device=cpu", "decoding.beam_size=4")
    plain, _ = translate()
    fused, report = translate(f"decoding.language_model={model}", "decoding.lm_weight=2")
    zero, _ = translate(f"decoding.language_model={model}", "decoding.lm_weight=0", "decoding.length_bonus=0")
    assert plain == zero != fused
    assert report["decoding"]["language_model"] == str(model) and report["decoding"]["lm_weight"] == 2


def test_a_text_file_instead_of_the_corpus(run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("nltk")
    (tmp_path / "text.de").write_text("Die Hilfe öffnen\n\nSeite\n", encoding="utf-8")
    options = (f"run_dir={run_dir}", f"text={tmp_path}/text.de", f"output={tmp_path}/lm.arpa")
    assert run(*options, "smoothing=witten_bell") == 0
    assert " from 2 sentences, " in capsys.readouterr().out
    assert run(*options, "data.limit=3") == 2
    assert capsys.readouterr().err == f"nat-lm: data.limit: has no effect with text={tmp_path}/text.de\n"
    (tmp_path / "text.de").write_text("\n\n", encoding="utf-8")
    assert run(*options) == 2
    assert capsys.readouterr().err == f"nat-lm: {tmp_path}/text.de: there is no text in it\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: None, "cannot be read (No such file or directory)"),
        (lambda text: text[: len(text) // 2], "line "),
        (lambda text: text.replace(HEADER, f"{HEADER}x"), "was trained with another tokenizer than the run's"),
    ],
)
def test_a_bad_file_stops_nat_decode_before_any_decoding(
    change: Any, message: str, run_dir: Path, model: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    text = change(model.read_text(encoding="utf-8"))
    model.unlink()
    if text is not None:
        model.write_text(text, encoding="utf-8")
    monkeypatch.setattr("nat.models.ctc.CTC.decode", None)
    words = (f"run_dir={run_dir}", "device=cpu", "decoding.beam_size=4", f"decoding.language_model={model}")
    capsys.readouterr()
    assert run(*words, f"output={tmp_path}/out.txt", entry=decode) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"nat-decode: {model}") and message in told and told.count("\n") == 1
    assert not (tmp_path / "out.txt").exists()


def test_python_checks_the_file_too(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.arpa: cannot be read"):
        load(run_dir, device="cpu").translate(["Page"], beam_size=4, language_model=str(tmp_path / "none.arpa"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["order=0"], "order=0: must be at least 1"),
        (["smoothing=kneser_ney"], "smoothing=kneser_ney: allowed are witten_bell, absolute_discounting"),
        (["run_dir=/nowhere"], "/nowhere: not a run folder (there is no config.yaml in it)"),
        (["data.tokenizer.vocabulary_size=99"], "data.tokenizer.vocabulary_size=99: the tokenizer is the run's own"),
        (["odrer=2"], "odrer: no such option, did you mean 'order'?"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("nltk")
    assert run(f"run_dir={run_dir}", f"output={tmp_path}/lm.arpa", *words) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"nat-lm: {message}") and told.count("\n") == 1


def test_without_nltk_the_extra_is_named(run_dir: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "nltk.lm", None)
    monkeypatch.setitem(sys.modules, "nltk", None)
    assert run(f"run_dir={run_dir}", f"output={tmp_path}/lm.arpa") == 2
    told = capsys.readouterr().err
    assert told.startswith("nat-lm: nltk: it cannot be imported") and "pip install 'nat-translation[lm]'" in told


def test_a_line_per_option_in_the_yaml(capsys: Any) -> None:
    assert run("--help") == 0
    told = capsys.readouterr().out
    assert "nat-decode run_dir=runs/ctc decoding.beam_size=10 decoding.language_model=" in told
    for option in ("run_dir", "output", "order", "smoothing", "text"):
        assert re.search(rf"^{option}: .*#", told, re.MULTILINE)
