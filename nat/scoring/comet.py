"""COMET (Rei et al. 2022, https://aclanthology.org/2022.wmt-1.52), where the package unbabel-comet is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat.errors import ConfigError

BATCH_SIZE = 16  # of the metric's own model, which is larger than ours


def open_comet(name: str, *, has_references: bool) -> Any:
    """The metric's model: a checkpoint file, the folder of a downloaded model, or a name to download.

    Raises ConfigError if the package is missing, the model cannot be had, or the text lacks references that it needs.
    """
    try:
        import comet
    except ImportError as error:
        raise ConfigError(
            f"comet={name}: it cannot be imported ({error}); pip install 'nat-translation[comet]' (Python 3.11, 3.12)"
        ) from None
    try:
        path = Path(name)
        checkpoint = path / "checkpoints" / "model.ckpt" if path.is_dir() else path
        model = comet.load_from_checkpoint(str(checkpoint) if checkpoint.is_file() else comet.download_model(name))
    except Exception as error:  # KeyError, OSError and plain Exception: whatever a download and a pickle can raise
        raise ConfigError(f"comet={name}: cannot be loaded ({' '.join(str(error).split())})") from None
    if not has_references and model.requires_references():
        raise ConfigError(f"comet={name}: needs reference=FILE, which only a reference-free model does without")
    return model


def comet_score(
    model: Any,
    sources: Sequence[str],
    translations: Sequence[str],
    references: Sequence[str] | None,
    *,
    on_gpu: bool,
) -> float:
    """The mean over all sentences; its scale is the model's."""
    samples = [{"src": source, "mt": line} for source, line in zip(sources, translations, strict=True)]
    if references is not None:
        samples = [sample | {"ref": line} for sample, line in zip(samples, references, strict=True)]
    prediction = model.predict(samples, batch_size=BATCH_SIZE, gpus=int(on_gpu), progress_bar=False)
    return float(prediction.system_score)
