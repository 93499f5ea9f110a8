"""What the fuzz tests do: commands with damaged files and impossible options, each in a process of its own."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from builders import command
from workers import CONTEXT, logged

from nat.cli.distill import main as distill
from nat.composition import compose

COMMANDS = ("bench", "cloze", "decode", "distill", "doctor", "edit", "export", "lm", "modes", "report", "train")
MODELS = ("ctc", "autoregressive", "levenshtein", "kermit")
MEMORY = 14 * 2**30  # of address space, bytes: a process that wants more is told that there is none
PRELOADED = [
    "fuzzing", "nat.training.run", "nat.distill.run", "nat.reporting.report", "nat.doctor.command",
    "nat.studies.editing", "nat.studies.cloze", "nat.studies.ngrams", "nat.studies.modes.study",
    "nat.bench.benchmark", "nat.evaluation.decode", "workers", *(f"nat.cli.{name}" for name in COMMANDS),
]  # fmt: skip
CONTEXT.set_forkserver_preload(PRELOADED)

WORDS = (  # values of options, as they are typed
    "0", "1", "-1", "2", "3.5", "100000", "1000000", "1000000000", "100000000000000000000", "1e30", "-1e30", "1e-30",
    "nan", "inf", "null", "true", "'1'", "x", "ü", "''", "[]", "{}", "[1]", "[[]]", "[null]", "{a: 1}", "/",
    "/dev/null", "/dev/zero", "/nowhere/x", "~", "'${seed}'", "'???'", "a,b", "a=b", "embedded:lohelp", "hub:a/b",
    "cuda", "auto", "test", "valid",
)  # fmt: skip
PLAIN: tuple[Any, ...] = (  # values in files
    None, True, 0, -1, 1, 10**9, 10**23, 1e30, float("nan"), "", "x", "ü", [], {}, [1], {"a": 1}, "${oc.env:HOME}",
    "???",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A command that has ended. code: None where it did not end though asked to; below 0: killed by that signal."""

    code: int | None
    output: str

    @property
    def fault(self) -> str | None:
        """What a user must never see."""
        if self.code is None:
            return "it did not end"
        if "Traceback (most recent call last)" in self.output:
            return "a traceback"
        if self.code not in (0, 2, 128 + signal.SIGINT):
            return f"exit code {self.code}"
        if self.code == 2 and not any(line.startswith("nat-") for line in self.output.splitlines()):
            return "exit code 2 and no line that says why"
        return None


def run(name: str, words: list[str], log: Path, *, seconds: float = 20.0) -> Outcome:
    process = CONTEXT.Process(target=_run, args=(name, words, str(log)), daemon=True)
    process.start()
    process.join(seconds)
    if process.exitcode is None:  # long work, such as a million updates: it must end when asked to
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(20.0)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return Outcome(code, log.read_text(encoding="utf-8", errors="replace"))


def _run(name: str, words: list[str], log: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    os.chdir(Path(log).parent)
    with logged(log):
        importlib.import_module(f"nat.cli.{name}").main(words)


class Runs(dict[str, Path]):
    """A run folder of each method, of a few updates, trained when it is first asked for. Never to be written to."""

    def __init__(self, folder: Path, small: list[str]) -> None:
        super().__init__()
        self.folder, self.small = folder, small

    def __missing__(self, model: str) -> Path:
        self[model] = self.folder / model
        budget = ["trainer.max_updates=3", "trainer.save_every=2", "validation.every=2", "validation.max_sentences=3"]
        assert command(*self.small, *budget, *self.tokenizer(model), f"model={model}", f"run_dir={self[model]}") == 0
        return self[model]

    def tokenizer(self, model: str) -> list[str]:
        """One for all."""
        return [] if model == MODELS[0] else [f"data.tokenizer.path={self[MODELS[0]] / 'tokenizer'}"]


def make_distilled(run: Path, folder: Path) -> Path:
    """What nat-distill writes, a shard still to be done."""
    words = [f"teacher={run}", f"output={folder}", "split=valid", "data.limit=6", "shard_size=2", "device=cpu"]
    with contextlib.suppress(SystemExit):
        distill(words)
    (folder / "manifest.json").unlink(missing_ok=True)
    (folder / "train.jsonl").unlink(missing_ok=True)
    return folder


def usual_words(name: str, run: Path, model: str, runs: Runs, folder: Path) -> list[str]:
    """A quick use of the command that ends well, with the run folder `run`, a copy of that of the model."""
    out = folder / "out"
    quick = ["device=cpu", "num_threads=1"]
    if name == "train":
        budget = ["trainer.max_updates=5", "trainer.save_every=2", "validation.every=4", "validation.max_sentences=3"]
        return [*runs.small, *budget, *runs.tokenizer(model), f"model={model}", f"run_dir={run}"]
    if name == "bench":
        return ["edits", "repeats=1", "edits.batch_size=2", "edits.vocabulary_size=50", "edits.target_length=4"]
    if name == "distill":
        return [f"teacher={run}", f"output={out}", "split=valid", "data.limit=6", "shard_size=2", *quick]
    if name == "edit":
        return [f"run_dir={run}", f"teacher={runs['autoregressive']}", "num_cases=2", "data.limit=5", *quick]
    if name == "export":
        return [f"run_dir={run}", f"output={out}", "max_sentences=2", *quick]
    if name == "lm":
        return [f"run_dir={run}", f"output={out}", "order=2", "data.limit=20"]
    if name in ("report", "modes"):
        few = ["max_sentences=3", "speed_sentences=1", "samples=1"] if name == "report" else []
        return [f"run_dirs=[{run}]", f"output={out}", "plots=false", *few, *quick]
    if name == "doctor":
        return [f"run_dir={run}", "sentences=2", "training_pairs=20", *quick]
    if name == "cloze":
        return [f"run_dir={run}", "max_sentences=2", *quick]
    (folder / "source.txt").write_text("Click OK.\n\nOpens the dialog.\n", encoding="utf-8")
    return [f"run_dir={run}", f"source={folder / 'source.txt'}", "speed=false", *quick]


DECODING = (
    "beam_size", "num_candidates", "temperature", "seed", "max_passes", "max_length_factor", "max_length_offset",
    "length_penalty", "end_penalty", "orders", "history", "batch_size", "direction", "language_model", "lm_weight",
)  # fmt: skip
DATA = ("train", "valid", "test", "limit", "max_words", "cache", "target")


def option_names(name: str, model: str) -> list[str]:
    """Every option of the command, and decoding options of the methods."""
    plain = compose(name, [f"model={model}", "run_dir=x"] if name == "train" else [])
    names = {*leaf_names(plain), "run_dir", "output", "run_dirs", "source", "teacher"}
    if name not in ("train", "bench", "lm"):
        names |= {f"decoding.{option}" for option in DECODING} | {f"data.{option}" for option in DATA}
    if name == "train":
        names |= {f"validation.decoding.{option}" for option in DECODING}
    return sorted(names)


def leaf_names(node: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from leaf_names(value, f"{path}{key}.")


# --- damage -----------------------------------------------------------------------------------------


def files_of(run: Path) -> list[str]:
    paths = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.parts[0] != "tensorboard")


def damage(path: Path, draw: random.Random) -> str:
    """Spoil a file in one of many ways. Returns which."""
    kinds: list[Callable[[Path, random.Random], None]] = [truncate, flip, empty, delete, to_folder, append, foreign]
    if path.suffix in (".json", ".jsonl", ".yaml"):
        kinds += [change_value] * 6
    kind = draw.choice(kinds)
    kind(path, draw)
    return kind.__name__


def truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(max(1, path.stat().st_size))])


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 8))):
        if content:
            content[draw.randrange(min(len(content), draw.choice((64, 10**9))))] = draw.randrange(256)
    path.write_bytes(bytes(content))


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def to_folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


ENDS = (b"\xff\n", b"{}\n", b"\x00" * 9, b"extra: ${oc.env:NOPE}\n", b"\n\n", b"[" * 3000, b"null\n")
CONTENTS = (b"[]", b"{}", b"null", b"5", b'"x"', b"[" * 3000, b'{"kind": "train"}\n', b"a: ${b}\n", b"\xff\xfe")


def append(path: Path, draw: random.Random) -> None:
    with path.open("ab") as file:
        file.write(draw.choice(ENDS))


def foreign(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.choice(CONTENTS))


def change_value(path: Path, draw: random.Random) -> None:
    """One value somewhere in the tree becomes another, or goes."""
    with contextlib.suppress(UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            path.write_text(yaml.safe_dump(changed(yaml.safe_load(text), draw), allow_unicode=True), encoding="utf-8")
        elif path.suffix == ".json":
            path.write_text(json.dumps(changed(json.loads(text), draw)), encoding="utf-8")
        else:
            lines = text.splitlines()
            if lines:
                number = draw.randrange(len(lines))
                lines[number] = json.dumps(changed(json.loads(lines[number]), draw))
                path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def changed(node: Any, draw: random.Random) -> Any:
    if isinstance(node, dict) and node and draw.random() < 0.9:
        key = draw.choice(sorted(node))
        if draw.random() < 0.15:
            return {other: value for other, value in node.items() if other != key}
        return node | {key: changed(node[key], draw)}
    if isinstance(node, list) and node and draw.random() < 0.8:
        place = draw.randrange(len(node))
        return [*node[:place], changed(node[place], draw), *node[place + 1 :]]
    return draw.choice(PLAIN)
