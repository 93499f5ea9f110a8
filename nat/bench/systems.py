"""The systems that are measured: models of configs/model by name, all of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nat.composition import compose, config_directory
from nat.config import Component, locate, nearest, option, parse
from nat.data.vocabulary import Vocabularies
from nat.models.contract import TranslationModel

WITH_OPTIONS = {  # systems that are a model with options: name -> (model, options)
    "ctc with glancing": ("ctc", ("model.glancing.start=0.5", "model.glancing.end=0.3")),
}


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Options of every benchmark of whole models."""

    vocabulary_size: int = option(8000, "vocabulary V, one for both languages", minimum=300, maximum=1_000_000)
    num_layers: int = option(3, "layers of the encoder, and as many of the decoder", minimum=1, maximum=1024)
    dim: int = option(256, "width D of the states", minimum=1, maximum=65536)
    num_heads: int = option(4, "attention heads", minimum=1, maximum=4096)
    ffn_dim: int = option(1024, "width of the feed-forward layers", minimum=1, maximum=2**20)

    def options_of(self, name: str) -> list[str]:
        """The system as options of nat-train. A model without a decoder has both stacks' layers in its one."""
        model, more = WITH_OPTIONS.get(name, (name, ()))
        has_decoder = "decoder" in compose("train", ["run_dir=unused", f"model={model}"])["model"]
        return [
            f"model={model}",
            f"encoder.num_layers={self.num_layers if has_decoder else 2 * self.num_layers}",
            *([f"model.decoder.num_layers={self.num_layers}"] if has_decoder else []),
            f"model.size.dim={self.dim}",
            f"model.size.num_heads={self.num_heads}",
            f"model.size.ffn_dim={self.ffn_dim}",
            *more,
        ]

    def build(self, name: str, *, more: Sequence[str] = ()) -> TranslationModel:
        """The system's model with the first weights of a seed."""
        plain = compose("train", ["run_dir=unused", *self.options_of(name), *more])["model"]
        size = self.vocabulary_size
        torch.manual_seed(1)
        model: TranslationModel = parse(Component, plain, "model").build(
            vocabularies=Vocabularies(size, size, shared=True)
        )
        return model


def text_systems() -> list[str]:
    """The models of configs/model that translate text, and the systems that are one of them with options."""
    paths = sorted((config_directory() / "model").glob("*.yaml"))
    classes = {path.stem: compose("train", ["run_dir=unused", f"model={path.stem}"])["model"] for path in paths}
    names = [name for name, plain in classes.items() if not getattr(locate(str(plain["_target_"])), "points", False)]
    return [*names, *WITH_OPTIONS]


def unknown_systems(contenders: Sequence[str]) -> list[str]:
    """Lines for an error, one for each name that is no system."""
    models = [path.stem for path in (config_directory() / "model").glob("*.yaml")]
    known = sorted([*models, *WITH_OPTIONS])
    return [f"contenders={name}: no such system, {nearest(name, known)}" for name in contenders if name not in known]
