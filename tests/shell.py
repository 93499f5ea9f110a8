"""A shell in which nat's commands are quick, for the commands of README.md, docs/ and scripts/.

nat-*, torchrun and python run in forks of one process that has imported nat, so that none of them pays for an import;
the embedded text is a few dozen short sentences, and the options of TINY come after those of the command line. In the
mode "compose" a command is only read: its options are composed and checked as the command itself does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import gzip
import hashlib
import importlib
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import workers

ROOT = Path(__file__).parent.parent
PREPARED = re.compile(r"\bruns/(\w+)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TINY = {
    "train": (
        "trainer.max_updates=2 trainer.tokens_per_update=100 trainer.precision=fp32 trainer.device=cpu "
        "trainer.compile=false validation.every=2 validation.max_sentences=2 validation.num_samples=1 "
        "schedule.warmup=1 encoder.num_layers=1 model.size.dim=16 model.size.num_heads=2 model.size.ffn_dim=32"
    ),
    "decode": "speed_sentences=2",
    "report": "speed_sentences=2 max_sentences=6 samples=2 plots=false",
    "doctor": "sentences=4",
    "edit": "num_cases=4",
    "cloze": "max_sentences=4",
    "bench": (
        "repeats=1 alignments.batch_size=2 alignments.vocabulary_size=20 edits.batch_size=2 edits.vocabulary_size=20 "
        "dag.batch_size=2 dag.source_length=3 dag.target_length=3 dag.upsampling=[2] dag.target_lengths=[3] "
        "dag.vocabulary_size=300 dag.dim=16 dag.num_layers=1 dag.num_heads=2 dag.ffn_dim=16 "
        "attention.kinds=[linear] attention.lengths=[64,128] attention.fit_from=64 attention.dim=16 "
        "attention.num_heads=2 training.updates=1 training.dim=16 training.num_layers=1 training.num_heads=2 "
        "training.ffn_dim=16 training.seconds=0.1 training.vocabulary_size=300 training.tokens_per_update=50 "
        "training.contenders=[ctc] decoding.dim=16 decoding.num_layers=1 decoding.num_heads=2 decoding.ffn_dim=16 "
        "decoding.vocabulary_size=300 decoding.sentences=1 decoding.batch_size=2 decoding.batches=1"
        " feed.pairs=400 feed.vocabulary_size=50 feed.tokens_per_update=1000 feed.updates=2"
    ),
}
CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
call = json.dumps({{"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}})
socket.send_fds(server, [call.encode() + bytes([10])], [0, 1, 2])
sys.exit(int(server.recv(8) or 70))
"""
WARM_UP = """nat-train experiment=tiny run_dir=warm
nat-decode run_dir=warm output=warm.de
nat-report run_dirs=[warm] output=warm-report"""
# bash scripts/NAME.sh; what was once checked with these words is not checked again
SCRIPTS = """#!/bin/sh
mark="$NAT_VENV/checked-$(echo "$*" | cksum | tr ' ' -)"
if [ "$NAT_SCRIPTS" = compose ] && [ -e "$mark" ]; then exit 0; fi
NAT_MODE="$NAT_SCRIPTS" /bin/bash "$@" || exit $?
touch "$mark"
"""


class Shell:
    """Stand-in programs in a folder of their own, and the process behind them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nat-shell-"))  # a socket's path must be short
        self.bin = self.folder / "venv" / "bin"
        self.bin.mkdir(parents=True)
        address = str(self.folder / "socket")
        self.text = small_text(self.folder / "text")
        self.process = workers.start(serve, address, str(self.text), str(self.folder / "log"))
        while not os.path.exists(address):
            assert self.process.is_alive(), (self.folder / "log").read_text(encoding="utf-8")
            time.sleep(0.01)
        client = CLIENT.format(python=sys.executable, address=address)
        for name in (*PROJECT["scripts"], "torchrun", "python", "pip"):
            self.program(name, client)
        self.program("bash", SCRIPTS)
        for name in ("ruff", "mypy"):
            self.program(name, "#!/bin/sh\n")

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        shutil.rmtree(self.folder)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def checkout(self, folder: Path) -> Path:
        """What scripts need of the repository, and an environment that scripts/setup.sh finds ready."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("README.md", "pyproject.toml", "constraints.txt"):
            shutil.copyfile(ROOT / name, folder / name)
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        large = shutil.ignore_patterns("*.html", "*.png", "*.svg")
        shutil.copytree(ROOT / "docs" / "results", folder / "docs" / "results", ignore=large)
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").touch()
        both = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
        number = subprocess.run(["cksum"], input=both, capture_output=True, check=True).stdout.split()[0].decode()
        for extra in ("", "-plot", "-test"):
            (self.bin.parent / f".nat-{number}{extra}").touch()
        return folder

    def run(self, text: str, folder: Path, *, scripts: str = "compose") -> str:
        """What a piece of bash prints in `folder`, both streams. Raises AssertionError if any command of it fails.

        scripts: what commands inside `bash scripts/NAME.sh` do, "run" or "compose".
        """
        environment = os.environ | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "NAT_VENV": str(self.bin.parent),
            "NAT_MODE": "run",
            "NAT_SCRIPTS": scripts,
            "NAT_CACHE": str(self.folder / "cache"),
        }
        trap = "trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n"
        done = subprocess.run(
            ["/bin/bash", "-Eeuo", "pipefail", "-c", trap + text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n--- exit code {done.returncode}:\n{done.stdout[-8000:]}"
        return done.stdout

    def prepare(self, text: str, folder: Path, runs: dict[str, str]) -> None:
        """Copy to `folder` what stands as runs/NAME in a text, and what that was made from. runs: the command that
        makes each."""
        workshop = self.folder / "workshop"
        workshop.mkdir(exist_ok=True)
        for name in needed(text, runs):
            origin, copy = (place / "runs" / name for place in (workshop, folder))
            if not origin.exists():
                self.run(runs[name], workshop)
            if not copy.exists():
                shutil.copytree(origin, copy)


def needed(text: str, runs: dict[str, str]) -> list[str]:
    """Names of runs in a text, each after those that it was made from."""
    names: list[str] = []
    for name in PREPARED.findall(text):
        if name in runs and name not in names:
            others = {other: command for other, command in runs.items() if other != name}
            names += [origin for origin in needed(runs[name], others) if origin not in names]
            names.append(name)
    return names


def small_text(folder: Path) -> Path:
    """The embedded text, cut to its first short rows, and the models."""
    folder.mkdir(parents=True)
    (folder / "models").symlink_to(ROOT / "data" / "models")
    for path in sorted((ROOT / "data").rglob("*.gz")):
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
        pages = path.name.endswith(".jsonl.gz")
        head = lines[:1] if path.parent.name == "lohelp4" else []
        rows = [shortened(line) for line in lines[:40]] if pages else [row for row in lines[len(head) :] if short(row)]
        rows = rows[: 120 if path.name.startswith("train") else 4]
        copy = folder / path.relative_to(ROOT / "data")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(gzip.compress("".join(f"{row}\n" for row in [*head, *rows]).encode("utf-8")))
    return folder


def short(row: str) -> bool:
    return all(3 <= len(side.split()) <= 8 for side in row.split("\t"))


def shortened(page: str) -> str:
    texts = json.loads(page)
    return json.dumps({name: " ".join(str(text).split()[:40]) for name, text in texts.items()})


# --- the process behind the stand-ins ----------------------------------------------------------------


def serve(address: str, text: str, log: str) -> None:
    """Answer every stand-in that calls, each in a fork of this process, until this process is killed."""
    with workers.logged(log):
        warm_up(Path(text))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{address}.new")
        listener.listen(64)
        os.rename(f"{address}.new", address)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                answer(connection)
            connection.close()


def warm_up(text: Path) -> None:
    """Make what the commands read small, and run some of them, so that their imports and first times are done."""
    import torch

    from nat.data import generated, readers, tokenizer

    readers.embedded_directory = lambda: text
    for name, parse in generated.TASKS.items():
        generated.TASKS[name] = few(parse)
    tokenizer.Tokenizers.train = few_pieces(tokenizer.Tokenizers.train)
    os.environ |= {"NAT_MODE": "run", "NAT_CACHE": str(text.parent / "cache")}
    torch.set_num_threads(1)
    os.chdir(text.parent)
    for line in WARM_UP.splitlines():
        with contextlib.suppress(SystemExit):
            perform(line.split())
    gc.freeze()  # forks share what is there


def few(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A task of at most 40 pairs."""

    def smaller(text: str) -> Any:
        task = parse(text)
        return dataclasses.replace(task, pairs=min(task.pairs, 40))

    return smaller


def few_pieces(train: Callable[..., Any]) -> Callable[..., Any]:
    """A tokenizer of at most 400 pieces."""

    def smaller(config: Any, *texts: Any, **options: Any) -> Any:
        return train(dataclasses.replace(config, vocabulary_size=min(config.vocabulary_size, 400)), *texts, **options)

    return smaller


def answer(connection: socket.socket) -> None:
    """One call of a stand-in: its work, and its exit code."""
    code: object = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
        while not message.endswith(b"\n"):
            message += connection.recv(1 << 20)
        call = json.loads(message)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode) for n, mode in enumerate("rww"))
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["environment"])
        sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        perform(call["words"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    connection.sendall(str(code).encode())
    os._exit(0)


def perform(words: list[str]) -> None:
    """Do what a command line of a stand-in says; may raise SystemExit."""
    program, *arguments = words
    compose = os.environ["NAT_MODE"] == "compose"
    if program == "pip":
        check_installation(arguments)
    elif program == "torchrun":
        run_ranks(arguments)
    elif program == "python":
        run_python(arguments, compose=compose)
    elif compose:
        read_only(program.removeprefix("nat-"), arguments)
    else:
        command = program.removeprefix("nat-")
        sys.argv = [program, *arguments]  # by which completion knows its command
        importlib.import_module(f"nat.cli.{command}").main([*arguments, *tiny_options(command, arguments)])


def run_ranks(arguments: list[str]) -> None:
    """torchrun --nproc-per-node=N -m nat.cli.COMMAND ...: N forks that talk to one another."""
    count, module = int(arguments[0].removeprefix("--nproc-per-node=")), arguments.index("-m") + 1
    port, ranks = workers.free_port(), []
    for rank in range(count):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            os.environ.update(workers.rank_environment(rank, count, port))
            perform([arguments[module].replace("nat.cli.", "nat-"), *arguments[module + 1 :]])
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in ranks))


def run_python(arguments: list[str], *, compose: bool) -> None:
    """A file, or a module of nat; other modules (pytest) are for others to run."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        if not compose and arguments[1].startswith("nat."):
            runpy.run_module(arguments[1], run_name="__main__")
    elif not compose:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def read_only(command: str, arguments: list[str]) -> None:
    """Compose and check a command's options, and stop there; once for words that differ in paths alone."""
    from nat import config

    shape = [command, *(re.sub(r"=[^=]*/[^,?]*", "=PATH", word) for word in arguments)]
    mark = Path(os.environ["NAT_VENV"], f"composed-{hashlib.sha256(repr(shape).encode()).hexdigest()}")
    if mark.exists():
        return
    mark.touch()
    parse = config.parse

    def check(kind: type, node: Any, path: str = "") -> Any:
        parse(kind, node, path)
        raise SystemExit(0)

    config.parse = check
    importlib.import_module(f"nat.cli.{command}").main(arguments)
    raise AssertionError(f"nat-{command} has checked nothing")


def tiny_options(command: str, arguments: list[str]) -> list[str]:
    """What makes a command line quick."""
    if not arguments or {"--help", "--cfg"} & set(arguments):
        return []
    options = TINY.get(command, "").split()
    if command == "distill" and not {"targets=corpus", "teacher=runs/ctc"} & set(arguments):  # untrained, it never ends
        options += ["decoding.max_length_factor=0.6", "decoding.max_length_offset=1"]
    return options


def check_installation(arguments: list[str]) -> None:
    """`pip install 'nat-translation[EXTRA]'`: the package is ours, and has that extra."""
    assert arguments[0] == "install", arguments
    for wanted in (word for word in arguments[1:] if not word.startswith("-")):
        name, _, extras = wanted.removesuffix("]").partition("[")
        assert name in (PROJECT["name"], "."), f"pip install {wanted}: not {PROJECT['name']}"
        for extra in filter(None, extras.split(",")):
            assert extra in PROJECT["optional-dependencies"], f"pip install {wanted}: there is no extra {extra}"
