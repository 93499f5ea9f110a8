"""Exports translate as the runs that they were made of, whatever else is in a batch; what is refused is refused in one
line."""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_run

import nat
from nat.cli.decode import main as nat_decode
from nat.cli.distill import main as nat_distill
from nat.cli.export import main as nat_export
from nat.cli.report import main as nat_report
from nat.composition import compose
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.data.tokenizer import TokenizerConfig, Tokenizers
from nat.data.vocabulary import Symbol
from nat.decoding.batch_options import BatchOptions
from nat.decoding.requests import Sentence
from nat.decoding.translator import Translator
from nat.engines import translate
from nat.engines.base import ComputeType
from nat.engines.choice import Engine, accelerate
from nat.errors import ConfigError, DataError
from nat.files import read_object

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

ODD = ["", " ", "\t\u3000", "☃", "<mask> <pad> </s>", "a", "A " * 40, "é" * 40, "0123456789" * 6, ". . . ! ?"]
FORMS: dict[str, tuple[str, dict[str, Any]]] = {  # what can be exported: model and options
    "ctc": ("ctc", {}),
    "ctc_fast": ("ctc", {"factored_blank": True, "decoder": {"cross_attention": False}}),
    "dag": ("dag", {}),
    "dag_late": ("dag", {"decoder": {"cross_attention": False}, "upsampling": 8}),
    "vanilla": ("vanilla", {}),
    "vanilla_token": ("vanilla", {"length": {"summary": "token"}, "copy": "soft", "size": {"norm": "post"}}),
    "vanilla_axe": ("vanilla", {"loss": "axe"}),
    "vanilla_deep": ("vanilla", {"deep_supervision": {"enabled": True}}),
    "crf": ("crf", {"transitions": {"kind": "dynamic"}, "beam": 20}),
    "crf_static": ("crf", {"length": {"summary": "token"}, "copy": "soft", "beam": 400}),
    "fertility": ("fertility", {}),
    "fertility_deep": ("fertility", {"deep_supervision": {"enabled": True}, "size": {"norm": "post"}}),
    "mask_predict": ("mask_predict", {}),
    "mask_predict_copying": ("mask_predict", {"copying": {"enabled": True}}),
    "diffusion": ("diffusion", {}),
    "refinement": ("refinement", {"length": {"summary": "token"}}),
    "imputer": ("imputer", {}),
    "imputer_fast": ("imputer", {"factored_blank": True, "decoder": {"cross_attention": False}}),
}


@pytest.fixture(scope="module")
def text() -> list[tuple[str, str]]:
    pairs = (line.split("\t") for line in read_lines(embedded_directory() / "lohelp" / "valid.tsv.gz"))
    return [(source, target) for source, target in pairs if 2 <= len(source.split()) <= 12][:60]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, text: list[tuple[str, str]]) -> Callable[..., Path]:
    """A random run of a model with options, made once."""
    base = tmp_path_factory.mktemp("exports")
    (base / "text.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in text), encoding="utf-8")
    tokenizers = Tokenizers.train(TokenizerConfig(vocabulary_size=150), *map(list, zip(*text, strict=True)))
    locations = [f"data.{split}={base}/text.tsv" for split in ("train", "valid", "test")]
    data = compose("train", ["run_dir=unused", *locations])["data"]

    def made(name: str, **options: Any) -> Path:
        folder = base / f"{name}-{json.dumps(options, sort_keys=True)}".replace("/", "_").replace('"', "")
        return folder if folder.exists() else make_run(folder, name, data, tokenizers, **options)

    return made


@pytest.fixture(scope="module")
def export(make: Callable[..., Path]) -> Callable[..., Path]:
    """An export of such a run, made once."""

    def exported(name: str, *words: str, **options: Any) -> Path:
        run = make(name, **options)
        folder = run.with_name(f"{run.name} export {' '.join(words)}")
        if not folder.exists():
            assert call(nat_export, f"run_dir={run}", f"output={folder}", "max_sentences=0", *words) == 0
        return folder

    return exported


def call(main: Callable[[list[str]], None], *words: str) -> int:
    """A command in this process: its exit code."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def tokens(translator: Translator, sentences: Sequence[Sentence], *, size: int = 64, **options: Any) -> list[list[int]]:
    decoded = translator.decode(sentences, decoding=translator.decoding(options), batches=BatchOptions(batch_size=size))
    return [item.tokens[0] for item in decoded]


@pytest.fixture
def lines(text: list[tuple[str, str]]) -> list[str]:
    return [source for source, _ in text[:12]] + ODD


# --- agreement ----------------------------------------------------------------------------------------


def some(quick: Sequence[str]) -> list[Any]:
    """All forms, the others in the slow tier."""
    return [form if form in quick else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]


@pytest.mark.parametrize(
    "form", some(["crf", "ctc_fast", "dag", "vanilla_deep", "fertility", "mask_predict", "imputer"])
)
def test_the_export_writes_the_tokens_of_the_run(
    form: str, make: Callable[..., Path], export: Callable[..., Path], lines: list[str]
) -> None:
    name, options = FORMS[form]
    run, found = nat.load(make(name, **options)), nat.load(export(name, "precision=fp32", **options))
    expected = tokens(run, lines)
    assert len({tuple(row) for row in expected}) > 9
    assert tokens(found, lines) == expected
    assert found.num_parameters == run.num_parameters
    assert (found.engine, found.computed_in) == ("onnx", "fp32")


@pytest.mark.parametrize("form", some(["ctc", "dag", "vanilla"]))
def test_a_line_in_int8_does_not_depend_on_its_batch(form: str, export: Callable[..., Path], lines: list[str]) -> None:
    name, options = FORMS[form]
    found = nat.load(export(name, "precision=int8", **options))
    expected = tokens(found, lines, size=64)
    assert tokens(found, lines, size=1) == tokens(found, lines, size=7) == expected
    order = random.Random(1).sample(range(len(lines)), len(lines))
    assert tokens(found, [lines[i] for i in order], size=7) == [expected[i] for i in order]


def test_learned_positions_limit_the_graph_too(make: Callable[..., Path], export: Callable[..., Path]) -> None:
    options: dict[str, Any] = {"positions": {"kind": "learned", "max_length": 20}}
    run, found = nat.load(make("ctc", **options)), nat.load(export("ctc", "precision=fp32", **options))
    assert tokens(found, ["Help me"]) == tokens(run, ["Help me"])
    with pytest.raises(DataError, match=r"^the input, line 2: \d+ tokens, but .* takes at most 10"):
        found.translate(["Help", "x " * 40])


def test_sinusoids_end_where_the_graph_has_no_more(
    export: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "long").write_text("Help\n" + "x " * 600 + "\n")
    folder = export("ctc", "precision=fp32")
    assert read_object(folder / "manifest.json")["max_source_tokens"] == 512
    assert call(nat_decode, f"run_dir={folder}", f"source={tmp_path / 'long'}") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("line 2: 1200 tokens, but onnx takes at most 512")


def test_the_teacher_in_ctranslate2(make: Callable[..., Path], export: Callable[..., Path], lines: list[str]) -> None:
    pytest.importorskip("ctranslate2")
    run = nat.load(make("autoregressive"))
    exact = nat.load(export("autoregressive", "format=ctranslate2", "precision=fp32"))
    assert tokens(exact, lines, max_length_offset=5) == tokens(run, lines, max_length_offset=5)
    found = nat.load(export("autoregressive", "format=ctranslate2", "precision=int8"))
    expected = accelerate(run, Engine.CTRANSLATE2, ComputeType.INT8)
    for options in ({"max_length_factor": 0.5}, {"max_length_factor": 0.5, "beam_size": 3}):
        written = tokens(found, lines, **options)
        assert written == tokens(expected, lines, **options) == tokens(found, lines, size=1, **options)


@pytest.mark.parametrize("form", ["ctc_fast", "dag", "fertility"])
def test_a_graph_can_be_kept_from_writing_unk(
    form: str, make: Callable[..., Path], export: Callable[..., Path], lines: list[str]
) -> None:
    name, options = FORMS[form]
    run, found = nat.load(make(name, **options)), nat.load(export(name, "precision=fp32", **options))
    assert any(int(Symbol.UNK) in row for row in tokens(found, lines))
    expected = tokens(run, lines, allow_unknown=False)
    assert not any(int(Symbol.UNK) in row for row in expected)
    assert tokens(found, lines, allow_unknown=False) == expected


def test_the_graph_of_a_dag_searches_greedily_or_ahead(
    make: Callable[..., Path], export: Callable[..., Path], lines: list[str]
) -> None:
    run, found = nat.load(make("dag")), nat.load(export("dag", "precision=fp32"))
    written = [tokens(run, lines)]
    for options in ({"search": "greedy"}, {"lookahead_beta": 4.0}, {"search": "lookahead", "lookahead_beta": 0.2}):
        written.append(tokens(run, lines, **options))
        assert tokens(found, lines, **options) == written[-1]
    assert len({json.dumps(texts) for texts in written}) == 4
    for options, message in (
        ({"search": "viterbi"}, r"decoding\.search=viterbi: .* is computed by one onnx graph"),
        ({"beam_size": 2}, r"decoding\.beam_size=2: .* is computed by one onnx graph"),
        ({"temperature": 1.0}, r"decoding\.temperature=1\.0: .* is computed by one onnx graph"),
    ):
        with pytest.raises(ConfigError, match=message):
            found.decoding(options)


def test_what_a_position_skips_is_no_token() -> None:
    class Graph:
        def run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.array([[9, int(Symbol.BLANK), 9, int(Symbol.UNK), int(Symbol.BLANK)]])]

    assert translate.run(Graph(), [[7, 8]], False) == [[9, 9, int(Symbol.UNK)]]  # type: ignore[arg-type]


def test_passes_do_what_the_run_does_with_them(
    make: Callable[..., Path], export: Callable[..., Path], lines: list[str]
) -> None:
    run, found = nat.load(make("mask_predict")), nat.load(export("mask_predict", "precision=fp32"))
    for options in ({"max_passes": 9, "length_beam": 2}, {"temperature": 1.0}, {"allow_unknown": False}):
        assert tokens(found, lines, **options) == tokens(run, lines, **options)
    requests: list[Sentence] = [nat.Request("Help me", draft="Hilf"), nat.Request("Click it", constraints=["auf"])]
    assert tokens(found, requests) == tokens(run, requests)


# --- without nat --------------------------------------------------------------------------------------


def alone(python: Path | str, folder: Path, *words: str, text: bytes) -> bytes:
    """What translate.py prints, by a Python that sees no nat."""
    command = [str(python), "-I", str(folder / "translate.py"), *words]
    return subprocess.run(command, input=text, capture_output=True, check=True, cwd="/").stdout


def decoded(folder: Path, source: Path, output: Path) -> bytes:
    assert call(nat_decode, f"run_dir={folder}", f"source={source}", f"output={output}", "speed=false") == 0
    return output.read_bytes()


@pytest.mark.parametrize("form", ["ctc", "vanilla"])
def test_translate_py_writes_what_nat_decode_writes(
    form: str, export: Callable[..., Path], lines: list[str], tmp_path: Path
) -> None:
    folder, source = export(form, "precision=int8"), tmp_path / "source"
    source.write_text("".join(f"{line}\n" for line in [*lines, "the last"]), encoding="utf-8")
    expected = decoded(folder, source, tmp_path / "output")
    assert expected.count(b"\n") == len(lines) + 1
    assert alone(sys.executable, folder, str(source), text=b"") == expected
    text = b"\xef\xbb\xbf" + source.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    assert alone(sys.executable, folder, "--threads", "3", text=text) == expected


def test_translate_py_is_short_and_imports_three_packages() -> None:
    text = Path(translate.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {getattr(node, "module", None) or node.names[0].name for node in nodes}
    outside = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert outside == {"numpy", "onnxruntime", "sentencepiece"}


def test_translate_py_tells_what_is_wrong_in_one_line(export: Callable[..., Path], tmp_path: Path) -> None:
    folder = export("ctc", "precision=int8")
    for text, message in ((b"Help\n" + b"x " * 600, b"line 2: 1200 tokens, but"), (b"\xff\n", b"can't decode")):
        done = subprocess.run([sys.executable, folder / "translate.py"], input=text, capture_output=True)
        assert done.returncode == 1 and not done.stdout
        assert done.stderr.startswith(b"translate.py: ") and message in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_translate_py_in_an_environment_of_its_own(
    export: Callable[..., Path], lines: list[str], tmp_path: Path
) -> None:
    folder, source = export("ctc", "precision=int8"), tmp_path / "source"
    source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = [f"{name}=={version(name)}" for name in ("onnxruntime", "sentencepiece", "numpy")]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    expected = decoded(folder, source, tmp_path / "output")
    assert alone(python, folder, text=source.read_bytes()) == expected
    seen = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert seen.returncode != 0


# --- the folder ---------------------------------------------------------------------------------------


def test_the_manifest_tells_what_and_how_far(make: Callable[..., Path], tmp_path: Path) -> None:
    run = make("ctc")
    words = [f"run_dir={run}", f"output={tmp_path / 'out'}", "precision=fp32", "max_sentences=20"]
    assert call(nat_export, *words) == 0
    manifest = read_object(tmp_path / "out" / "manifest.json")
    assert next(iter(manifest)) == "nat_export"
    assert (manifest["engine"], manifest["precision"], manifest["model"]) == ("onnx", "fp32", "CTC")
    validation = manifest["validation"]
    assert (validation["num_sentences"], validation["identical"]) == (20, 1.0)
    assert validation["bleu"] == validation["bleu_of_run"]
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {*manifest["files"], "manifest.json"} == names
    assert call(nat_export, *words) == 0  # replaces its own output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda f: (f / "model.onnx").unlink(), r"model\.onnx: this file of the export is missing"),
    "truncated": (lambda f: cut(f / "model.onnx"), r"model\.onnx: was changed or cut short"),
    "altered": (lambda f: (f / "tokenizer/source.model").write_bytes(b"x" * 9), r"source\.model: was changed or cut"),
    "version": (
        lambda f: edit(f / "manifest.json", '"nat_export": 1', '"nat_export": 2'),
        r"manifest\.json: an export of format 2, this version of nat reads 1",
    ),
    "manifest": (lambda f: cut(f / "manifest.json"), r"manifest\.json: damaged or unreadable"),
    "engine": (lambda f: edit(f / "manifest.json", '"onnx"', '"torch"'), r"manifest\.json: damaged or unreadable"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), r"there is no such checkpoint file"),
    "fields": (lambda f: edit(f / "manifest.json", '"run"', '"ruin"'), r"manifest\.json: damaged .*it has no run"),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(
    damage: str, export: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(export("ctc", "precision=fp32"), folder)
    spoil, message = DAMAGES[damage]
    spoil(folder)
    (tmp_path / "source").write_text("Help\n")
    assert call(nat_decode, f"run_dir={folder}", f"source={tmp_path / 'source'}") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(message, line), line


def test_folders_of_others_are_left_alone(
    make: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make("ctc")
    for path in (tmp_path / "mine", tmp_path / "half"):
        path.mkdir()
    (tmp_path / "mine" / "diary").write_text("dear")
    (tmp_path / "half" / "model.onnx").write_text("cut short")
    for folder, message in (
        (tmp_path / "mine", "holds diary, which is no part of an export"),
        (tmp_path / "half", "is there already"),
        (run, "this is the run"),
    ):
        words = [f"run_dir={run}", f"output={folder}", "max_sentences=0"]
        more = [] if folder.name == "half" else ["overwrite=true"]
        assert call(nat_export, *words, *more) == 2
        assert message in capfd.readouterr().err
    assert (tmp_path / "mine" / "diary").read_text() == "dear"
    assert call(nat_export, f"run_dir={run}", f"output={tmp_path / 'half'}", "max_sentences=0", "overwrite=true") == 0


def test_a_failure_leaves_nothing(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"run_dir={make('ctc')}", f"output={tmp_path / 'out'}", "decoding.beam_size=4"]
    assert call(nat_export, *words) == 2
    assert "decoding.beam_size=4" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- refusals -----------------------------------------------------------------------------------------

REFUSED: list[tuple[str, dict[str, Any], list[str], str]] = [
    (
        "levenshtein",
        {},
        [],
        r"format=onnx: .* holds a \w+ model; CTC, Vanilla, Fertility, DAG and CRF become one graph",
    ),
    (
        "crf",
        {},
        ["format=web"],
        r"format=web: .* holds a CRF model; only CTC, Vanilla, Fertility and DAG become one graph",
    ),
    ("insertion", {}, [], r"format=onnx: .* holds a \w*Insertion\w* model"),
    ("kermit", {}, [], r"format=onnx: .* holds a Kermit model"),
    ("autoregressive", {}, [], r"format=onnx: .* holds a Autoregressive model; .* Autoregressive is for ctranslate2"),
    ("ctc", {}, ["format=ctranslate2"], r"format=ctranslate2: .* holds a CTC model; only Autoregressive ones work"),
    ("ctc", {"attention": "local"}, [], r"format=onnx: .* has \w+, which no graph is written for"),
    ("ctc", {"copying": {"enabled": True}}, [], r"model\.copying\.enabled=true, which no graph"),
    ("dag", {"crf": {"weight": 0.5}}, [], r"model\.crf\.weight, which no graph"),
    ("ctc", {"deep_supervision": {"enabled": True}}, [], r"model\.deep_supervision\.enabled=true, which no graph"),
]


@pytest.mark.parametrize(("name", "options", "words", "message"), REFUSED)
def test_what_cannot_be_exported_is_named(
    name: str, options: dict[str, Any], words: list[str], message: str, make: Callable[..., Path], tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert call(nat_export, f"run_dir={make(name, **options)}", f"output={tmp_path / 'out'}", *words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_not_a_run_in_everything(export: Callable[..., Path], make: Callable[..., Path]) -> None:
    folder = export("ctc", "precision=fp32")
    found = nat.load(folder)
    for options in ({"beam_size": 4}, {"temperature": 0.5}, {"history": True}):
        (name,) = options
        with pytest.raises(
            ConfigError, match=rf"^decoding\.{name}=.* is computed by one onnx graph, made with {name}="
        ):
            found.translate(["Help"], **options)
    with pytest.raises(ConfigError, match="is an export, which translates and does nothing else"):
        found.score(["Help"], ["Hilfe"])
    with pytest.raises(ConfigError, match=r"^weights=other: .* is an export"):
        nat.load(folder, weights="other")
    with pytest.raises(ConfigError, match=r"^decoding\.precision=bf16: has no effect"):
        nat.load(folder, precision="bf16")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_command(
    package: str, make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, package, None)
    assert call(nat_export, f"run_dir={make('ctc')}", f"output={tmp_path / 'out'}") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"the package {package} is missing; pip install 'nat-translation[onnx]'" in line


# --- commands -----------------------------------------------------------------------------------------


def test_a_report_takes_exports_and_engines(
    make: Callable[..., Path], export: Callable[..., Path], tmp_path: Path
) -> None:
    run, folder = make("ctc"), export("ctc", "precision=int8")
    entries = f"run_dirs=[{run}?name=run,{run}?engine=onnx&precision=int8&name=engine,{folder}?name=export]"
    assert call(nat_report, entries, f"output={tmp_path / 'report'}", "plots=false", "speed_sentences=2") == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "report" / "results.json").read_text())}
    assert [rows[name]["engine"] for name in ("run", "engine", "export")] == ["torch", "onnx", "onnx"]
    assert [rows[name]["precision"] for name in ("run", "engine", "export")] == ["fp32", "int8", "int8"]
    outputs = [(tmp_path / "report" / "outputs" / f"{name}.txt").read_text() for name in ("engine", "export")]
    assert outputs[0] == outputs[1]


def test_exports_teach(export: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ctranslate2")
    folder = export("autoregressive", "format=ctranslate2", "precision=int8")
    assert call(nat_distill, f"teacher={folder}", f"output={tmp_path / 'one'}") == 0
    manifest = read_object(tmp_path / "one" / "manifest.json")
    assert (manifest["engine"], manifest["precision"]) == ("ctranslate2", "int8")
    folder = export("ctc", "precision=int8")
    assert call(nat_distill, f"teacher={folder}", f"output={tmp_path / 'two'}") == 0
    assert read_object(tmp_path / "two" / "manifest.json")["mean_score"] is None  # a graph says no scores
