"""A run becomes a model that comes with nat: data/models/NAME, in bfloat16 and without the way to it.

python scripts/embed_model.py RUN_DIR NAME

The weights are those that the run decodes with. config.yaml keeps its options, but for paths of this machine: it names
the embedded corpus.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from nat.config import load_yaml, save_yaml
from nat.data.readers import embedded_directory
from nat.data.tokenizer import Tokenizers
from nat.files import write_atomically, write_json
from nat.runs.embedded import FOLDER, PREFIX
from nat.runs.folder import run_summary
from nat.runs.weights import WEIGHTS, load_tensors, write_tensors

LARGEST = 8_000_000  # bytes of a model's folder


def embedded_options(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Without paths of the machine that trained it."""
    data = config["data"] | {"train": f"{PREFIX}lohelp/train.tsv.gz", "cache": None}
    data["tokenizer"] = data["tokenizer"] | {"path": None}
    return config | {"data": data, "init_from": None, "run_dir": f"{PREFIX}{name}"}


def write_model(run: Path, folder: Path, name: str) -> None:
    folder.mkdir()
    tokenizers = Tokenizers.load(run / "tokenizer")
    tokenizers.save(folder / "tokenizer")
    save_yaml(embedded_options(load_yaml(run / "config.yaml"), name), folder / "config.yaml")
    weights = {key: tensor.to(torch.bfloat16) for key, tensor in load_tensors(run / WEIGHTS).items()}
    write_tensors(weights, folder / WEIGHTS, {"tokenizer": tokenizers.fingerprint})
    write_json(folder / "run.json", run_summary(run) | {"stored_in": "bf16"})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("name", metavar="NAME")
    arguments = parser.parse_args()
    target = embedded_directory() / FOLDER / arguments.name
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    write_atomically(target, lambda part: write_model(arguments.run, part, arguments.name))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB")
    if size > LARGEST:
        raise SystemExit(f"more than {LARGEST / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
