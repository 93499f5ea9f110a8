"""torch.compile takes every loss whole: one graph, for all shapes and updates, that computes what is computed without.

Graphs are run as they are traced, without a compiler: what is tested is what of a loss torch can follow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import workers
from builders import MODELS, make_batch, make_model
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from nat.models.contract import LossTerm, TranslationModel
from nat.training.objective import objective
from nat.training.step import Loss

# Of each model those options that change how its loss is computed, together.
TECHNIQUES: list[tuple[str, dict[str, Any]]] = [
    ("autoregressive", {"copying": {"enabled": True}}),
    (
        "ctc",
        {
            "glancing": {"start": 0.5, "end": 0.3},
            "deep_supervision": {"enabled": True},
            "copying": {"enabled": True},
            "factored_blank": True,
            "decoder": {"cross_attention": False, "num_layers": 2},
            "label_smoothing": 0.1,
        },
    ),
    ("crf", {"transitions": {"kind": "dynamic"}, "beam": 8, "copying": {"enabled": True}, "copy": "soft"}),
    (
        "dag",
        {
            "glancing": {"start": 0.5, "end": 0.3},
            "copying": {"enabled": True},
            "decoder": {"cross_attention": False, "num_layers": 2},
            "label_smoothing": 0.1,
        },
    ),
    ("dag", {"crf": {"weight": 0.5, "beam": 8, "transitions": {"kind": "dynamic"}}, "copying": {"enabled": True}}),
    ("fertility", {"glancing": {"start": 0.5, "end": 0.3}, "copying": {"enabled": True}}),
    ("imputer", {"factored_blank": True, "copying": {"enabled": True}, "alignment": "sample"}),
    ("imputer", {"training": "imitation", "masking": "block", "label_smoothing": 0.1}),
    ("insertion", {"distribution": "factored", "finalisation": "sequence", "loss": "uniform"}),
    ("levenshtein", {"share_decoders": "none", "copying": {"enabled": True}, "roll_in": "argmax"}),
    ("edit_flow", {"sources": 0.3, "copying": {"enabled": True}}),
    ("mask_predict", {"copying": {"enabled": True}, "length": {"summary": "token"}}),
    ("mask_predict", {"loss": "axe"}),
    ("diffusion", {"copying": {"enabled": True}, "weight": "linear"}),
    ("refinement", {"copying": {"enabled": True}}),
    (
        "vanilla",
        {
            "glancing": {"start": 0.5, "end": 0.3},
            "deep_supervision": {"enabled": True},
            "copying": {"enabled": True},
            "copy": "soft",
            "decoder": {"num_layers": 2},
        },
    ),
    ("vanilla", {"loss": "axe", "skip_target": 2.0}),
    ("vanilla", {"loss": "oaxe", "truncation": 0.05}),
]
NO_DECODER = ("kermit", "pointer_parallel")
QUICK = ("ctc",)
CASES = [pytest.param(name, {}, marks=[] if name in QUICK else pytest.mark.slow, id=name) for name in MODELS]
CASES += [
    pytest.param(name, options, marks=pytest.mark.slow, id=f"{name}+{'+'.join(options)}")
    for name, options in TECHNIQUES
]


def terms_and_gradients(model: TranslationModel, loss: Loss, lengths: Any, update: int) -> dict[str, Tensor]:
    batch = make_batch(lengths, vocabularies=model.vocabularies)
    model.zero_grad()
    terms: dict[str, LossTerm] = loss(batch, update=update)
    objective(terms, 10).backward()
    found = {name: torch.stack((term.total.detach(), term.count)) for name, term in terms.items()}
    return found | {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(name: str, options: dict[str, Any], log: str) -> None:
    """Raises where the compiled loss is another one, or more than one graph."""
    with workers.logged(log):
        one = {"num_layers": 1}
        sizes: dict[str, Any] = {"encoder": one} | ({} if name in NO_DECODER else {"decoder": one})
        model = make_model(name, dtype=torch.float64, **(sizes | options)).train()
        counter = CompileCounter()
        compiled = torch.compile(model.loss, backend=counter, dynamic=True)
        # no two sizes of a batch are equal, for torch would take them for the same one
        for update, lengths in ((2, [(9, 7), (2, 1), (5, 4)]), (5, [(6, 4), (11, 3), (4, 8), (2, 2)])):
            expected = terms_and_gradients(model, model.loss, lengths, update)
            torch.testing.assert_close(terms_and_gradients(model, compiled, lengths, update), expected)
        assert counter.frame_count == 1, f"{counter.frame_count} graphs"


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_loss_is_one_graph(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = workers.start(compare, name, options, str(log))  # torch cannot follow the check of shapes
    assert workers.finish(process, 280) == 0, log.read_text()
