"""A run finds its text from whatever folder its commands are run in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nat.config import load_yaml
from nat.data.corpus import DataConfig


def test_relative_paths_are_those_of_the_current_folder(
    tmp_path: Path, data: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    made = data(train=["a.en", "../a.de"], valid="hub:set", test="/there/t.tsv", cache="cache").absolute()
    assert made.train == [f"{tmp_path}/a.en", f"{tmp_path.parent}/a.de"]
    assert (made.valid, made.test) == (f"hub:{tmp_path}/set", "/there/t.tsv")
    assert made.cache == f"{tmp_path}/cache"
    named = data(train="embedded:lohelp/train.tsv.gz", valid="hub:someone/text", test="task:convex_hull?pairs=9")
    assert named.absolute() == named


def test_a_run_is_decoded_from_another_folder(
    tmp_path: Path,
    small: list[str],
    nat_train: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nat.cli.decode import main

    text = next(option for option in small if option.startswith("data.train=")).partition("=")[2]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "t.tsv").write_text(Path(text).read_text())
    monkeypatch.chdir(tmp_path / "there")
    relative = [f"data.{split}=t.tsv" for split in ("train", "valid", "test")]
    options = [*small, *relative, "model=ctc", "run_dir=run", "trainer.max_updates=2"]
    assert nat_train(*options) == 0
    assert load_yaml(Path("run/config.yaml"))["data"]["train"] == f"{tmp_path}/there/t.tsv"
    monkeypatch.chdir(tmp_path)
    arguments = ["run_dir=there/run", "split=test", "speed=false", "output=out.txt"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code
    assert json.loads((tmp_path / "out.txt.json").read_text())["num_sentences"] == 150
    (tmp_path / "there").rename(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    assert nat_train(*options, "trainer.max_updates=3") == 0  # the folder was moved: the text is the same
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there" / "t.tsv").rename(tmp_path / "moved.tsv")
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert f"{tmp_path}/here/t.tsv: there is no such file" in capsys.readouterr().err
