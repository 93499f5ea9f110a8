"""What every training stage promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from nat.config import Component
from nat.data.batch import Batch
from nat.data.tokenizer import Tokenizers
from nat.errors import ConfigError
from nat.models.contract import LossTerm, TranslationModel


class Stage(ABC):
    """A loss that takes the place of the model's own, chosen in the config by `_target_`.

    A stage has a nested dataclass `Config`. It holds the model that is trained and whatever else it needs, such as a
    frozen teacher, which is no part of the model's weights. Validation and decoding stay the model's.
    """

    Config: ClassVar[type]
    fits: ClassVar[tuple[type[TranslationModel], ...]]  # the methods that it trains

    @abstractmethod
    def __init__(
        self, config: Any, *, model: TranslationModel, tokenizers: Tokenizers, device: torch.device
    ) -> None: ...

    @classmethod
    def check(cls, config: Any, *, model: Component[TranslationModel]) -> None:
        """Raises ConfigError, before any work, where the stage cannot train this model."""
        if not issubclass(model.target, cls.fits):
            names = " or ".join(method.__name__ for method in cls.fits)
            raise ConfigError(f"stage: {cls.__name__} trains a {names} model, not {model.target.__name__}")

    @property
    def readers(self) -> tuple[TranslationModel, ...]:
        """Further models that must be able to read every training pair (`TranslationModel.learnable`)."""
        return ()

    @abstractmethod
    def loss(self, batch: Batch, *, update: int) -> dict[str, LossTerm]:
        """See `TranslationModel.loss`."""
