"""What a resumed run must notice, and what it must not lose."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from builders import command

from nat.files import read_json, write_json
from nat.progress import Progress
from nat.runs.folder import latest_checkpoint, saved_states
from nat.training.distributed import Ranks
from nat.training.validation import Validated, Validator

pytestmark = pytest.mark.timeout(300)
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def base(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 updates, validated at 4 and 8. Copy it, never write into it."""
    folder = tmp_path_factory.mktemp("base") / "run"
    assert command(*small, "model=ctc", f"run_dir={folder}", "trainer.max_updates=8") == 0
    return folder


@pytest.fixture
def resume(small: list[str], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Goes on with a copy of `base`, once `damage` was done to it: what the command printed."""

    def run(*overrides: str, damage: Callable[[Path], object] = lambda folder: None, code: int = 0) -> str:
        folder = tmp_path / "run"
        if not folder.exists():
            shutil.copytree(base, folder)
        damage(folder)
        capsys.readouterr()
        given = ["trainer.max_updates=12", *overrides]
        assert command(*small, "model=ctc", f"run_dir={folder}", *given) == code
        return capsys.readouterr().err

    return run


def points(folder: Path, kind: str) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    chosen = [line for line in lines if line["kind"] == kind]
    assert len({line["update"] for line in chosen}) == len(chosen)
    return {line["update"]: line for line in chosen}


def state_file(folder: Path) -> Path:
    path = latest_checkpoint(folder)
    assert path is not None
    return path / "state.json"


# --- what it learns from, and by what it is judged --------------------------------------------------


@pytest.mark.parametrize(("streaming", "change"), [(True, "another line"), (False, "another order")])
def test_other_pairs_under_the_same_path_are_refused(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], streaming: bool, change: str
) -> None:
    given = next(option for option in small if option.startswith("data.train=")).partition("=")[2]
    text, folder = tmp_path / "train.tsv", tmp_path / "run"
    lines = Path(given).read_text().splitlines(keepends=True)[:60]
    text.write_text("".join(lines))
    options = [*small, "model=ctc", f"run_dir={folder}", f"data.train={text}", f"data.streaming={streaming}"]
    assert command(*options, "trainer.max_updates=1") == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text.write_text("".join([*lines[:-1], "a file\teine Datei\n"] if change == "another line" else lines[::-1]))
    capsys.readouterr()
    assert command(*options, "trainer.max_updates=2") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"nat-train: {folder}/checkpoints/update-00000001: was trained on other pairs than data.train now gives (the "
        "text has changed, or what is kept of it); restore it, or choose another run_dir"
    )
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del before[folder / "config.yaml"], after[folder / "config.yaml"]
    assert after == before
    text.write_text("".join(lines))
    assert command(*options, "trainer.max_updates=2") == 0


def test_kept_checkpoints_are_scored_by_the_metric_of_today(resume: Callable[..., str], tmp_path: Path) -> None:
    """And those of a finished run, too."""
    for budget in (8, 12):
        resume("validation.metric=chrf", f"trainer.max_updates={budget}")
        summary, valid = read_json(tmp_path / "run" / "run.json"), points(tmp_path / "run", "valid")
        assert summary["metric"] == "chrf"
        best = max(valid.values(), key=lambda line: line["chrf"])
        assert summary["best_value"] == pytest.approx(best["chrf"])
        entries = read_json(state_file(tmp_path / "run"))["best"]
        assert entries
        for entry in entries:
            assert entry["value"] == pytest.approx(valid[entry["update"]]["chrf"])
            score = read_json(tmp_path / "run" / "best" / f"update-{entry['update']:08d}" / "score.json")
            assert score["value"] == entry["value"]


def test_kept_checkpoints_are_scored_on_the_sentences_of_today(resume: Callable[..., str], tmp_path: Path) -> None:
    seen: list[float] = []
    for count in (6, 3):
        resume(f"validation.max_sentences={count}", "trainer.max_updates=8")
        seen.append(read_json(tmp_path / "run" / "run.json")["best_value"])
    assert seen[0] != seen[1]


def test_a_metric_that_is_never_finite_chooses_nothing_and_another_one_goes_on(
    resume: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Validator.__call__

    def without_loss(self: Validator, *given: Any, **named: Any) -> Validated:
        validated = honest(self, *given, **named)
        return replace(validated, values=validated.values | {"loss": math.nan})

    with monkeypatch.context() as patched:
        patched.setattr(Validator, "__call__", without_loss)
        told = resume("validation.metric=loss", code=2)
    assert told.splitlines()[-1] == (
        "nat-train: validation.metric=loss: was never finite, so that no weights could be chosen; the same command "
        "goes on with another one (bleu, chrf)"
    )
    json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    resume("validation.metric=chrf")
    assert read_json(tmp_path / "run" / "run.json")["best"]["update"] == 12


# --- what it must not lose --------------------------------------------------------------------------


def test_a_crash_in_decoding_loses_no_update(
    resume: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again; and what is resumed ends as if nothing had been."""

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    resume()
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Validator, "__call__", crash)
            with pytest.raises(RuntimeError, match="a bug"):
                resume()
        assert state_file(tmp_path / "run").parent.name == "update-00000012"
    resume()
    assert points(tmp_path / "run", "train").keys() == set(range(1, 13))
    assert points(tmp_path / "run", "valid").keys() == {4, 8, 12}
    for path in whole.rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "run" / path.relative_to(whole)).read_bytes()


def test_a_lower_budget_ends_well(resume: Callable[..., str], tmp_path: Path) -> None:
    """Of a run that was never validated: it is validated once, and offers its weights."""

    def forget(folder: Path) -> None:
        shutil.rmtree(folder / "best")
        (folder / "model.safetensors").unlink()
        (folder / "metrics.jsonl").write_text("")
        saved = read_json(state_file(folder))
        saved["best"], saved["state"] = [], saved["state"] | {"validated": 0, "finished": False}
        write_json(state_file(folder), saved)

    resume("trainer.max_updates=3", damage=forget)
    assert points(tmp_path / "run", "valid").keys() == {8}
    assert read_json(tmp_path / "run" / "run.json")["finished"]
    assert (tmp_path / "run" / "model.safetensors").is_file()


# --- damage -----------------------------------------------------------------------------------------


def test_only_the_main_rank_tells_of_progress(resume: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Progress.__init__.__kwdefaults__, "interval", 0.0)
    assert "train 9/10 updates" in resume("trainer.max_updates=10")
    monkeypatch.setattr(Ranks, "is_main", False)
    assert "train" not in resume("trainer.max_updates=12")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("state.json", b"{}", "state.json: damaged"),
        ("../../metrics.jsonl", b'{"kind": "train"}\n', "metrics.jsonl, line 1: damaged"),
        ("../../metrics.jsonl", b"\xff\n", "metrics.jsonl, line 1: damaged"),
    ],
)
def test_damaged_files_are_one_line(resume: Callable[..., str], name: str, content: bytes, place: str) -> None:
    last = resume(damage=lambda folder: (state_file(folder).parent / name).write_bytes(content), code=2).splitlines()[
        -1
    ]
    assert last.startswith("nat-train: ")
    assert place in last


def test_a_damaged_state_names_the_older_ones_and_a_bad_stretch_is_rolled_back(
    small: list[str], resume: Callable[..., str], tmp_path: Path
) -> None:
    folder, kept = tmp_path / "run", "trainer.keep_states=3"
    assert command(*small, "model=ctc", f"run_dir={folder}", "trainer.max_updates=8", kept) == 0
    names = ["update-00000004", "update-00000005", "update-00000008"]
    assert [path.name for path in saved_states(folder)] == names
    bad = folder / "checkpoints" / names[-1]
    weights = [bad / "model.safetensors", folder / "model.safetensors"]
    before = [path.read_bytes() for path in weights]
    whole = (bad / "optimizer.safetensors").read_bytes()
    told = resume(kept, damage=lambda _: (bad / "optimizer.safetensors").write_bytes(whole[:100]), code=2)
    assert told.splitlines()[-1].endswith(
        f"; older states are there (update-00000004, update-00000005): delete {bad}, and the same command goes on from "
        "update-00000005"
    )
    assert told.splitlines()[-1].startswith(f"nat-train: {bad}/optimizer.safetensors: damaged or truncated (")
    shutil.rmtree(bad)
    resume(kept, "trainer.max_updates=8")
    assert [path.read_bytes() for path in weights] == before
    assert points(folder, "train").keys() == set(range(1, 9))


def test_the_optimiser_of_another_model_is_refused(
    resume: Callable[..., str], small: list[str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert command(*small, "model=kermit", f"run_dir={other}", "trainer.max_updates=1") == 0

    def swap(folder: Path) -> None:
        shutil.copy(state_file(other).with_name("optimizer.safetensors"), state_file(folder).parent)

    assert (
        "optimizer.safetensors: does not fit this model's optimiser (" in resume(damage=swap, code=2).splitlines()[-1]
    )


def test_a_folder_in_which_another_process_trains_is_left_alone(
    resume: Callable[..., str], base: Path, tmp_path: Path
) -> None:
    from nat.runs.lock import Owner, process_start

    owner = replace(Owner.here(), pid=os.getppid(), started=process_start(os.getppid()))
    told = resume(damage=lambda folder: (folder / "lock").write_text(json.dumps(asdict(owner))), code=2)
    assert told.splitlines() == [
        f"nat-train: run_dir={tmp_path}/run: process {owner.pid} on {owner.host} (since {owner.since}) is writing into "
        "it; wait for its end, or choose another folder"
    ]
    for path in base.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "run" / path.relative_to(base)).read_bytes()
    (tmp_path / "run" / "lock").unlink()
    resume()
    assert not (tmp_path / "run" / "lock").exists()
