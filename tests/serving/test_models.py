"""What nat-serve opens: an exported graph without torch, any run, and the command around them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from builders import command, make_run

import nat
from nat.composition import compose
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.data.tokenizer import TokenizerConfig, Tokenizers
from nat.errors import ConfigError, DataError
from nat.serving.models import Graph, Options, Run, open_translator

LINES = ["Save the file.", "Click OK to close the dialog.", "x " * 30, "Open"]
NONE = [Options()] * len(LINES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random runs of three methods."""
    base = tmp_path_factory.mktemp("served")
    pairs = [line.split("\t") for line in list(read_lines(embedded_directory() / "lohelp" / "valid.tsv.gz"))[:100]]
    (base / "text.tsv").write_text("".join("\t".join(pair) + "\n" for pair in pairs), encoding="utf-8")
    tokenizers = Tokenizers.train(TokenizerConfig(vocabulary_size=150), *map(list, zip(*pairs, strict=True)))
    data = compose("train", ["run_dir=unused", *(f"data.{split}={base}/text.tsv" for split in ("train", "valid"))])
    for name in ("ctc", "mask_predict", "levenshtein"):
        make_run(base / name, name, data["data"], tokenizers)
    return base


@pytest.fixture(scope="module")
def graph(base: Path) -> Path:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    words = [f"run_dir={base}/ctc", f"output={base}/graph", "precision=fp32", "max_sentences=0"]
    assert command(*words, name="export") == 0
    return base / "graph"


def test_a_graph_translates_as_its_run(base: Path, graph: Path) -> None:
    served = open_translator(str(graph), num_threads=1)
    assert isinstance(served, Graph)
    assert served.translate(LINES, NONE) == nat.load(base / "ctc").translate(LINES)


def test_a_graph_says_what_it_cannot(graph: Path) -> None:
    served = open_translator(str(graph), num_threads=1)
    served.check(["Save the file.", "Open"], Options())
    for options, reason in ((Options(passes=2), "passes: this model"), (Options(terms=("x",)), "terms: this model")):
        with pytest.raises(ConfigError, match=reason):
            served.check(["Save the file."], options)
    with pytest.raises(DataError, match=r"\d+ tokens, but this model takes at most \d+"):
        served.check(["Open", "a b " * 3000], Options())


def test_a_damaged_graph_is_refused(base: Path, graph: Path) -> None:
    damaged = base / "damaged"
    damaged.mkdir()
    for path in graph.rglob("*"):
        if path.is_file():
            (damaged / path.relative_to(graph)).parent.mkdir(parents=True, exist_ok=True)
            (damaged / path.relative_to(graph)).write_bytes(path.read_bytes())
    (damaged / "model.onnx").write_bytes((graph / "model.onnx").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"model\.onnx: was changed or cut short"):
        open_translator(str(damaged), num_threads=1)


def test_passes_are_those_of_each_line(base: Path) -> None:
    served = open_translator(str(base / "mask_predict"), num_threads=1)
    assert isinstance(served, Run)
    options = [Options(passes=1), Options(), Options(passes=1), Options(passes=4)]
    translator = nat.load(base / "mask_predict")
    expected = [
        translator.translate([line], **({} if option.passes is None else {"max_passes": option.passes}))[0]
        for line, option in zip(LINES, options, strict=True)
    ]
    assert served.translate(LINES, options) == expected
    with pytest.raises(ConfigError, match="max_passes=1000000"):
        served.check(LINES, Options(passes=1_000_000))


def test_terms_are_in_the_translation(base: Path) -> None:
    served = open_translator(str(base / "levenshtein"), num_threads=1)
    options = [Options(terms=("Datei",)), Options(), Options(terms=("Dialog", "OK")), Options()]
    for line, option in zip(LINES, options, strict=True):
        served.check([line], option)
    translated = served.translate(LINES, options)
    assert "Datei" in translated[0]
    assert "Dialog" in translated[2]
    assert "OK" in translated[2]
    with pytest.raises(ConfigError, match="terms: this model has no use for them"):
        open_translator(str(base / "ctc"), num_threads=1).check(LINES, Options(terms=("Datei",)))


class Serving:
    """nat-serve in a process of its own."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nat.cli.serve", "port=0", *words],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(nat.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stderr is not None
        self.port = int(self.process.stderr.readline().split()[0].rpartition(":")[2])

    def ask(self, line: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = json.dumps({"q": line, "source": "en", "target": "de"})
        connection.request("POST", "/translate", body, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return str(json.loads(response.read())["translatedText"])


@pytest.fixture
def serving(graph: Path) -> Iterator[Serving]:
    serving = Serving(f"models=[en-de={graph}]", "max_batch=2", "wait_ms=0")
    yield serving
    serving.process.kill()
    serving.process.wait()


def test_a_graph_is_served_without_torch(serving: Serving, base: Path) -> None:
    assert serving.ask(LINES[0]) == nat.load(base / "ctc").translate(LINES[:1])[0]
    mapped = Path(f"/proc/{serving.process.pid}/maps").read_text()
    assert not [library for library in ("torch", "arrow") if library in mapped]


def ask_all(serving: Serving, lines: Sequence[str]) -> tuple[list[threading.Thread], dict[str, str]]:
    answers: dict[str, str] = {}

    def ask(line: str) -> None:
        answers[line] = serving.ask(line)

    threads = [threading.Thread(target=ask, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    return threads, answers


def test_a_signal_under_load_loses_nothing_that_was_accepted(serving: Serving, base: Path) -> None:
    lines = [f"{'Save the file. ' * 8} {number}" for number in range(100)]
    alone = nat.load(base / "ctc").translate(lines)
    serving.ask("warm")
    threads, answers = ask_all(serving, lines)
    while len(answers) < 10:
        assert any(thread.is_alive() for thread in threads)
    serving.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert serving.process.wait(30) == 0
    assert len(answers) >= 10
    assert all(answers[line] == expected for line, expected in zip(lines, alone, strict=True) if line in answers)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models=[]"], "models=[]: at least one is needed"),
        (["models=[de]"], "models=de: SOURCE-TARGET=FOLDER is needed"),
        (["models=[en-de=a,en-de=b]"], "models: en-de is there twice"),
        (["models=[en-de=nowhere]"], "nowhere: not a run folder"),
        (["models=[en-de=embedded:en-fr]"], "embedded:en-fr: no such model comes with nat"),
        (["models=[en-de=embedded:en-de]", "host=256.1.1.1"], "host=256.1.1.1 port=5000: cannot be listened on"),
    ],
)
def test_what_cannot_be_served_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*words, name="serve") == 2
    assert message in capsys.readouterr().err
