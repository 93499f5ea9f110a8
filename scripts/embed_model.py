"""A run becomes a model that comes with nat: data/models/NAME, in bfloat16.

python scripts/embed_model.py RUN_DIR NAME

The weights are those that the run decodes with; its training text is named as the embedded one.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from nat.config import load_yaml, save_yaml
from nat.data.readers import embedded_directory
from nat.files import write_atomically
from nat.runs.locations import EMBEDDED, MODELS
from nat.runs.portable import write_portable

LARGEST = 8_000_000  # bytes of a model's folder


def write_model(run: Path, folder: Path, name: str) -> None:
    write_portable(run, folder, name=f"{EMBEDDED}{name}", dtype=torch.bfloat16)
    config = load_yaml(folder / "config.yaml")
    config["data"]["train"] = config["data"]["valid"].replace("valid", "train")
    save_yaml(config, folder / "config.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("name", metavar="NAME")
    arguments = parser.parse_args()
    target = embedded_directory() / MODELS / arguments.name
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    write_atomically(target, lambda part: write_model(arguments.run, part, arguments.name))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB")
    if size > LARGEST:
        raise SystemExit(f"more than {LARGEST / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
