"""nat-export format=web: a folder that browsers and nat-decode translate with; refusals come before any work."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from builders import make_run

from nat.cli.decode import main as nat_decode
from nat.cli.export import main as nat_export
from nat.cli.push import main as nat_push
from nat.composition import compose
from nat.data.tokenizer import PieceTokenizer, TokenizerConfig, Tokenizers
from nat.files import read_object
from nat.web import runtime
from nat.web.files import PAGE

CONTENT = {name: f"// {name}".encode() for name in runtime.FILES}
TEXT = ["Save the file.", "Click the chart.", "Open a table now.", "Close all windows."]


def call(main: Callable[[list[str]], None], *words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def archive(content: dict[str, bytes]) -> bytes:
    """As npm packs them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as package:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))
    return packed.getvalue()


@pytest.fixture(autouse=True)
def small_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the place of 14 MB of a real one; the cache is empty, npm is not there."""
    known = {name: (own, hashlib.sha256(CONTENT[name]).hexdigest()) for name, (own, _) in runtime.FILES.items()}
    monkeypatch.setattr(runtime, "FILES", known)
    monkeypatch.setattr(runtime, "ADDRESS", "http://127.0.0.1:9/onnxruntime-web.tgz")
    monkeypatch.setenv("NAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "ort.tgz"
    path.write_bytes(archive(CONTENT))
    return path


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A random run of a model, made once."""
    base = tmp_path_factory.mktemp("runs")
    (base / "text.tsv").write_text("".join(f"{line}\t{line}\n" for line in TEXT), encoding="utf-8")
    locations = [f"data.{split}={base}/text.tsv" for split in ("train", "valid", "test")]
    data = compose("train", ["run_dir=unused", *locations])["data"]
    joint = Tokenizers.train(TokenizerConfig(vocabulary_size=40), TEXT, TEXT)
    two = Tokenizers(joint.source, PieceTokenizer(joint.source.model), False)

    def made(name: str, *, shared: bool = True) -> Path:
        folder = base / f"{name}{shared}"
        return folder if folder.exists() else make_run(folder, name, data, joint if shared else two)

    return made


def export(run: Path, output: Path, *words: str) -> int:
    return call(nat_export, f"run_dir={run}", f"output={output}", "format=web", "max_sentences=0", *words)


def test_the_folder_holds_all_that_a_browser_asks_for(make: Callable[..., Path], package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert export(make("ctc"), folder, f"web.runtime={package}") == 0
    about = read_object(folder / "model.json")
    assert (about["name"], about["source"], about["targets"], about["model"]) == ("ctcTrue", "en", ["de"], "CTC")
    assert not about["tags"]
    assert about["symbols"] == {"unk": 1, "blank": 5, "first_piece": 7} and about["collapse"]
    assert about["graph_bytes"] == (folder / "model.onnx").stat().st_size
    assert about["tokenizers"] == ["tokenizer/source.json"] * 2
    assert read_object(folder / "tokenizer" / "source.json")["kind"] == "unigram"
    assert (folder / "runtime" / "ort.js").read_bytes() == CONTENT["ort.wasm.min.mjs"]
    assert "Microsoft" in (folder / "runtime" / "LICENSE.txt").read_text()
    assert (folder / "page" / "backend.js").read_bytes() == (PAGE / "local.js").read_bytes()
    assert not (folder / "page" / "server.js").exists()
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {"manifest.json", *read_object(folder / "manifest.json")["files"]}


def test_two_vocabularies_are_two_files(make: Callable[..., Path], package: Path, tmp_path: Path) -> None:
    assert export(make("vanilla", shared=False), tmp_path / "out", f"web.runtime={package}") == 0
    about = read_object(tmp_path / "out" / "model.json")
    assert about["tokenizers"] == ["tokenizer/source.json", "tokenizer/target.json"]
    assert not about["collapse"]
    assert all((tmp_path / "out" / name).is_file() for name in about["tokenizers"])


@pytest.mark.parametrize("name", ["ctc", "fertility"])
def test_the_folder_translates_here_as_the_run_does(
    name: str, make: Callable[..., Path], package: Path, tmp_path: Path
) -> None:
    """And is replaced by a second export, and copied by nat-push."""
    folder, output = tmp_path / "out", tmp_path / "lines"
    for _ in range(2):
        assert export(make(name), folder, "precision=fp32", f"web.runtime={package}") == 0
    found = []
    for place in (make(name), folder):
        assert call(nat_decode, f"run_dir={place}", f"output={output}", "speed=false", "device=cpu") == 0
        found.append(output.read_text(encoding="utf-8"))
    assert found[0] == found[1] and len(set(found[0].splitlines())) > 1
    assert call(nat_push, f"run_dir={folder}", "repo=a/b", f"output={tmp_path / 'pushed'}") == 0
    assert (tmp_path / "pushed" / "runtime" / "ort.js").is_file()


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("mask_predict", [], "format=web: {run} holds a MaskPredict model; only CTC, Vanilla"),
        ("autoregressive", [], "format=web: {run} holds a Autoregressive model; only"),
        ("ctc", ["format=onnx", "web.runtime=x"], "web.runtime=x: has no effect with format=onnx"),
        ("ctc", ["web.runtime=none.tgz"], "web.runtime=none.tgz: cannot be read (No such file or directory)"),
        ("ctc", ["web.runtime={base}/damaged"], "/damaged: is not onnxruntime-web 1.30.0 (not a gzip file)"),
        ("ctc", ["web.runtime={base}/other.tgz"], "/other.tgz: is not onnxruntime-web 1.30.0 (ort.wasm.min.mjs is"),
        ("ctc", ["web.runtime={base}/empty.tgz"], "/empty.tgz: is not onnxruntime-web 1.30.0 (\"filename 'pack"),
        ("ctc", [], "format=web: http://127.0.0.1:9/onnxruntime-web.tgz cannot be had ([Errno 111] Connection"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_page_is_named_before_any_work(
    name: str,
    words: list[str],
    message: str,
    make: Callable[..., Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "damaged").write_bytes(b"x")
    (tmp_path / "other.tgz").write_bytes(archive(CONTENT | {"ort.wasm.min.mjs": b"another version"}))
    (tmp_path / "empty.tgz").write_bytes(archive({}))
    run, output = make(name), tmp_path / "out"
    assert export(run, output, *(word.format(base=tmp_path) for word in words)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message.format(run=run, base=tmp_path) in line
    assert not output.exists()


def test_a_tokenizer_that_the_page_cannot_do_is_named(
    make: Callable[..., Path],
    package: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nat.web.pieces.KINDS", {})
    assert export(make("ctc"), tmp_path / "out", f"web.runtime={package}") == 2
    assert "format=web: the source tokenizer splits words or characters" in capfd.readouterr().err


# --- where the runtime comes from ---------------------------------------------------------------------


@pytest.fixture
def npm(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A registry on this machine: what it was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *values: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(runtime, "ADDRESS", f"http://127.0.0.1:{server.server_port}/{package.name}")
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_runtime_is_fetched_once_and_again_where_it_was_altered(npm: list[str], tmp_path: Path) -> None:
    expected = {own: CONTENT[name] for name, (own, _) in runtime.FILES.items()}
    assert runtime.find_runtime(None) == runtime.find_runtime(None) == expected
    assert npm == ["/ort.tgz"]
    (kept,) = tmp_path.glob("cache/web/*/ort.js")
    kept.write_bytes(b"altered")
    assert runtime.find_runtime(None) == expected
    assert npm == ["/ort.tgz"] * 2


@pytest.mark.parametrize("inside", ["", "dist", "package/dist"])
def test_the_runtime_may_be_a_folder(inside: str, tmp_path: Path) -> None:
    place = tmp_path / "unpacked" / inside
    place.mkdir(parents=True)
    for name, content in CONTENT.items():
        (place / name).write_bytes(content)
    assert set(runtime.find_runtime(str(tmp_path / "unpacked"))) == {own for own, _ in runtime.FILES.values()}


def test_pieces_are_written_as_json_that_a_browser_reads(
    make: Callable[..., Path], package: Path, tmp_path: Path
) -> None:
    assert export(make("ctc"), tmp_path / "out", f"web.runtime={package}") == 0
    text = (tmp_path / "out" / "tokenizer" / "source.json").read_text(encoding="utf-8")
    assert len(json.loads(text)["pieces"]) == len(json.loads(text)["types"]) > 20
