"""Where commands write: checked before any work, so that no file of a run and no work of a user is lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nat.errors import ConfigError, DataError
from nat.files import write_text

BEGINNING = 4096  # bytes of a file that are looked at
RUN_FILES = ("config.yaml", "run.json", "metrics.jsonl", "model.safetensors", "samples.json")
RUN_FOLDERS = ("tokenizer", "checkpoints", "best", "tensorboard", "stream")
SVG = r"<(\?xml|svg)"  # how a picture begins
OPEN_FILES = re.compile(r"/dev/(?:stdout|stderr)|(?:/dev|/proc/self)/fd/(\d+)")


@dataclass(frozen=True)
class Output:
    """A file that a command writes, or a folder of files.

    begins: a regular expression of how such a file begins, by which an earlier output is known. proof: the file that
    begins so, where it is another one: the report beside a text.
    """

    path: Path
    begins: str
    proof: Path | None = None
    is_folder: bool = False

    @property
    def is_replaceable(self) -> bool:
        """Nothing is lost: there is no such file, it is empty, or it is an earlier output of the same command."""
        if self.is_folder and (not self.path.is_dir() or not any(self.path.iterdir())):
            return True
        if not self.is_folder and (not self.path.is_file() or not self.path.stat().st_size):
            return True
        proof = self.proof or self.path
        if not proof.is_file():
            return False
        with open(proof, "rb") as file:
            beginning = file.read(BEGINNING).decode("utf-8", errors="replace")
        return re.match(self.begins, beginning) is not None


def json_object(*keys: str) -> str:
    """How a JSON object begins whose first keys are these."""
    return r"\{\s*" + r"[^\n]*\s*".join(f'"{key}": ' for key in keys)


def in_folder(folder: str, names: Iterable[str], *, begins: str, proof: str) -> dict[str, Output]:
    """What a command writes into a folder, by option and name; folders in it end in /. proof: the file that begins so,
    which is there whenever anything is."""
    return {
        f"output, {name}": Output(Path(folder) / name, begins, Path(folder) / proof, is_folder=name.endswith("/"))
        for name in names
    }


def is_stream(path: Path) -> bool:
    """A pipe, a terminal or another device: text goes through it, nothing is kept there."""
    return open_file(path) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def open_file(path: Path) -> int | None:
    """The number of a file that this process has open, /dev/stdout or /dev/fd/N; None for another path. It may be
    redirected to an ordinary file, whose position is that of all who write to it."""
    match = OPEN_FILES.fullmatch(str(path.absolute()))
    if match is None:
        return None
    return int(match.group(1)) if match.group(1) else {"stdout": 1, "stderr": 2}[path.name]


def write_output(path: Path, text: str) -> None:
    """The whole file or none of it, or text into a stream. Raises DataError where that cannot be."""
    if not is_stream(path):
        write_text(path, text)
        return
    number = open_file(path)
    try:
        with open(path if number is None else os.dup(number), "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def check_outputs(
    outputs: Mapping[str, Output],
    *,
    inputs: Iterable[str | None] = (),
    runs: Iterable[str | None] = (),
    overwrite: bool = False,
) -> None:
    """The files (by the option that names them) can be written, differ, are none of the inputs, are no files of the
    runs, and replace nothing but earlier outputs, unless `overwrite`. Raises ConfigError or DataError."""
    taken = {Path(path).resolve(): "an input" for path in inputs if path is not None}
    folders = [Path(run) for run in runs if run is not None]
    for name, output in outputs.items():
        path = output.path
        if is_stream(path):
            if not path.exists():
                raise DataError(f"{name}={path}: cannot be written (it is not open)")
            continue
        where = path.resolve()
        if where in taken:
            raise ConfigError(f"{name}={path}: this is {taken[where]}, choose another file")
        for folder in folders:
            if is_run_file(where, folder.resolve()):
                raise ConfigError(f"{name}={path}: this is a file of the run {folder}, choose another file")
        taken[where] = f"also the file of {name}"
        check_writable(name, output)
        if not overwrite and not output.is_replaceable:
            raise ConfigError(
                f"{name}={path}: is there already, and is no earlier output of this command; choose another, or "
                "replace it with overwrite=true"
            )


def is_run_file(path: Path, run: Path) -> bool:
    """Of those that nat-train wrote. Both paths are resolved."""
    if not path.is_relative_to(run):
        return False
    parts = path.relative_to(run).parts
    return parts in [(name,) for name in RUN_FILES] or parts[:1] in [(name,) for name in RUN_FOLDERS]


def check_writable(name: str, output: Output) -> None:
    """Raises DataError."""
    path = output.path
    if path.exists() and not (path.is_dir() if output.is_folder else path.is_file()):
        raise DataError(
            f"{name}={path}: cannot be written (it is no ordinary {'folder' if output.is_folder else 'file'})"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise DataError(f"{name}={path}: cannot be written ({folder} is not a folder)")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"{name}={path}: cannot be written (no permission for {folder})")
