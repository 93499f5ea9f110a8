"""Writes the golden files anew: python tests/golden/renew.py. Read the diff before you commit it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]


def main() -> None:
    from builders import MODELS, loss_curve

    from nat.composition import compose
    from nat.config import save_yaml

    for model in MODELS:
        plain = compose("train", ["experiment=tiny", f"model={model}", "run_dir=RUN_DIR"])
        save_yaml(plain, HERE / f"config_{model}.yaml")
    curves = {model: loss_curve(model) for model in MODELS}
    (HERE / "losses.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
