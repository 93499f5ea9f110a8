"""How often the host waits for a GPU in a loss and in decoding; seen on a CPU, with shapes as on a GPU."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from builders import MODELS, make_batch, make_model
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

from nat.bench.waits import asking_line
from nat.models import levenshtein
from nat.models.dag import Search
from nat.ops import dag, editing, selection, shapes

ASKING = {  # operators whose result, or its shape, the host reads
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten._unique2.default,
}
READING = ("tolist", "item", "__bool__", "__int__", "__index__", "__float__")
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}


class Waits(TorchDispatchMode):
    """Counts, for each line of nat, how often the host would wait there."""

    def __init__(self) -> None:
        super().__init__()
        self.places: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func in INDEXING and any(t is not None and t.dtype == torch.bool for t in args[1])
        if func in ASKING or by_mask:
            self.places[asking_line()] += 1
        if func.namespace == "nat":  # an operator of our own: what it does is seen, too
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[collections.Counter[str]]:
    mode = Waits()

    def noted(read: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def reading(tensor: Tensor) -> Any:
            mode.places[asking_line()] += 1
            return read(tensor)

        return reading

    with monkeypatch.context() as patch, mode:
        for module in (dag, editing, selection, shapes, levenshtein):
            patch.setattr(module, "are_fixed", lambda tensor: True)
        for name in READING:
            patch.setattr(Tensor, name, noted(getattr(Tensor, name)))
        yield mode.places


IN_LOSS = {"ctc": 1, "imputer": 1}  # torch's own CTC takes lengths from the host
# Widths of what grows are read, too. Once each: a search's limits, what is left of its rows, whether words were given.
IN_PASS, ONCE = {"insertion": 2, "kermit": 3, "levenshtein": 1, "edit_flow": 2}, 2


CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in MODELS] + [("dag", {"crf": {"weight": 0.5}})]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_loss_does_not_wait(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(name, **options).train()
    batch = make_batch([(6, 4), (3, 7), (5, 2)], vocabularies=model.vocabularies)
    with waits(monkeypatch) as places:
        sum(term.total for term in model.loss(batch, update=1).values()).backward()  # type: ignore[union-attr]
    assert places.total() == IN_LOSS.get(name, 0), places


@pytest.mark.parametrize(("name", "options"), CASES)
def test_decoding_waits_once_a_pass(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(name, **options)
    source = make_batch([(6, 4), (3, 7), (5, 2), (2, 2)], vocabularies=model.vocabularies).source
    decoding = type(model).Decoding()
    with waits(monkeypatch) as places, torch.inference_mode():
        translation = model.decode(source, decoding=decoding)
    assert places.total() <= IN_PASS.get(name, 1) * int(translation.passes.max()) + ONCE, places


ONE_PATH = [Search.GREEDY, Search.LOOKAHEAD, Search.VITERBI]
STATIC: list[tuple[str, dict[str, Any]]] = [("ctc", {}), *(("dag", {"search": search}) for search in ONE_PATH)]


@pytest.mark.parametrize(("name", "options"), STATIC)
def test_a_static_pass_does_not_wait(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(name)
    static = model.static_pass(type(model).Decoding(**options))
    assert static is not None
    source = make_batch([(6, 4), (3, 7), (5, 2), (2, 2)]).source
    with waits(monkeypatch) as places, torch.inference_mode():
        static.compute(source)
    assert places.total() == 0, places
