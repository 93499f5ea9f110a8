"""What may be written where: nothing that a user or a run has is lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from nat.errors import ConfigError, DataError
from nat.runs.outputs import Output, check_outputs, in_folder, is_stream, json_object, write_output

BEGINS = json_object("run_dir", "model")


def checked(path: Path, **options: object) -> None:
    check_outputs({"output": Output(path, BEGINS)}, **options)  # type: ignore[arg-type]


def test_an_earlier_output_and_an_empty_file_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    checked(path)
    path.write_text("")
    checked(path)
    path.write_text('{\n "run_dir": "runs/a",\n "model": "CTC"\n}\n')
    checked(path)


@pytest.mark.parametrize("content", ["my thesis\n", "{}", '{\n "run_dir": "a",\n "teacher": "b"}', '["run_dir"]', "\0"])
def test_another_file_is_kept_unless_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"^output=.*out\.json: is there already.*overwrite=true$"):
        checked(path)
    checked(path, overwrite=True)


def test_the_report_beside_a_text_says_whose_it_is(tmp_path: Path) -> None:
    text, report = tmp_path / "out.txt", tmp_path / "out.txt.json"
    text.write_text("Hilfe\n")
    output = {"output": Output(text, BEGINS, proof=report)}
    with pytest.raises(ConfigError):
        check_outputs(output)
    report.write_text('{\n "run_dir": "a",\n "model": "CTC"}')
    check_outputs(output)


def test_a_folder_is_replaced_where_its_proof_is(tmp_path: Path) -> None:
    outputs = in_folder(str(tmp_path), ("table.md", "outputs/"), begins=r"\| system", proof="table.md")
    (tmp_path / "notes.txt").write_text("of no interest")
    (tmp_path / "outputs").mkdir()
    check_outputs(outputs)
    (tmp_path / "outputs" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"outputs/=.*is there already"):
        check_outputs(outputs)
    (tmp_path / "table.md").write_text("| system | model |\n")
    check_outputs(outputs)


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "tokenizer/new.json", "checkpoints/a/b"])
def test_files_of_a_run_are_never_written_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(ConfigError, match="a file of the run"):
        checked(path, runs=[None, str(tmp_path / "run")], overwrite=True)
    checked(tmp_path / "run" / "out.json", runs=[str(tmp_path / "run")])


def test_inputs_are_never_written_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an input"):
        checked(tmp_path / "a", inputs=[str(tmp_path / "b" / ".." / "a")], overwrite=True)


def test_streams() -> None:
    assert is_stream(Path("/dev/stdout"))  # also where it is redirected to a file
    assert is_stream(Path("/dev/null"))
    assert not is_stream(Path("/dev/shm/there-is-no-such-file"))
    checked(Path("/dev/stdout"))
    with pytest.raises(DataError, match="it is not open"):
        checked(Path("/dev/fd/99"))
    write_output(Path("/dev/null"), "Hilfe\n")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(DataError, match="/dev/full: cannot be written"):
        write_output(Path("/dev/full"), "Hilfe\n")


def test_an_open_file_is_written_where_it_stands(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as log:
        print("before", file=log, flush=True)
        write_output(Path(f"/dev/fd/{log.fileno()}"), "text\n")
        print("after", file=log)
    assert (tmp_path / "log").read_text() == "before\ntext\nafter\n"


def test_a_pipe_gets_the_text(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    write_output(path, "Öffnen\n")
    reader.join(10)
    assert read == ["Öffnen\n"]
    assert is_stream(path)
