"""Two texts on one canvas, for a model that writes both (KERMIT: Chan et al. 2019, section 3,
https://arxiv.org/abs/1906.01604).

The canvas is source, SEPARATOR, target. The separator is a position as others are, so that gaps are slots: gap g up to
that before the separator is slot g of the source, those after it are the slots of the target, in their order. There is
no gap that is between the texts.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from nat.nn.joint import Side
from nat.ops.editing import deletion, gaps, rearrange
from nat.search.editing import EditCanvas
from nat.search.insertion import SEPARATOR
from nat.search.refine import Fate, History

E = TypeVar("E", bound=EditCanvas)


def paired(source: EditCanvas, target: EditCanvas) -> EditCanvas:
    """Two canvases of the same rows as one."""
    one = torch.ones_like(source.sealed)[:, None]
    both: EditCanvas = EditCanvas.start(
        torch.cat((source.tokens, one * SEPARATOR, target.tokens), dim=1),
        torch.cat((source.valid, one, target.valid), dim=1),
        fixed=torch.cat((source.fixed, one, target.fixed), dim=1),
        joined=torch.cat((source.joined, source.sealed[:, None], target.joined), dim=1),
        sealed=target.sealed,
    )
    return both.without(~both.valid)


def boundary(canvas: EditCanvas) -> Int[Tensor, "B 1"]:
    """The position of the separator: the source's length."""
    return (canvas.tokens == SEPARATOR).int().argmax(dim=1, keepdim=True)


def text_of(canvas: E, side: Side) -> E:
    """What stands on one side, its positions on the left. Which of its gaps are open, only the pair knows."""
    place = torch.arange(canvas.tokens.size(1), device=canvas.tokens.device) - boundary(canvas)
    return canvas.without(place >= 0 if side is Side.SOURCE else place <= 0)


def slots_of(canvas: EditCanvas, side: Side) -> Bool[Tensor, "B A"]:
    """The gaps that are slots of this side."""
    gap = torch.arange(canvas.tokens.size(1) + 1, device=canvas.tokens.device)
    in_source = gap <= boundary(canvas)
    return (in_source if side is Side.SOURCE else ~in_source) & gaps(canvas.valid)


def by_gap(canvas: EditCanvas, side: Side, values: Shaped[Tensor, "B G V"]) -> Shaped[Tensor, "B A V"]:
    """Values of the slots of one side as values of gaps; in the other gaps they mean nothing."""
    slot = torch.arange(canvas.tokens.size(1) + 1, device=canvas.tokens.device).expand(len(canvas), -1)
    if side is Side.TARGET:
        slot = slot - boundary(canvas) - 1
    return rearrange(values, slot.clamp(min=0, max=values.size(1) - 1))


def history_of(history: History, side: Side) -> History:
    """Of one side of every pass, its positions on the left."""
    tokens, fate = history.tokens.flatten(0, 1), history.fate.flatten(0, 1)  # (B * P, L)
    real = fate != int(Fate.NONE)
    separator = (tokens == SEPARATOR) & real
    in_source = separator.cumsum(dim=1) == 0
    origin, valid = deletion(real & (in_source if side is Side.SOURCE else ~in_source & ~separator))

    def moved(values: Tensor) -> Tensor:
        return rearrange(values.flatten(0, 1), origin).masked_fill(~valid, 0).unflatten(0, values.shape[:2])

    return History(moved(history.tokens), moved(history.confidence), moved(history.fate))
