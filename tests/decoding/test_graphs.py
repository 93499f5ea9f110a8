"""CUDA graphs without a GPU: a recorder that calls what it was given, into the same memory each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_batch, make_model

from nat.data.batch import Phrases
from nat.decoding import translator
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import Decoded, decode_in_batches
from nat.decoding.graphs import GraphedDecoder, Replay, check_graphs, rounded_up
from nat.decoding.translator import load
from nat.errors import ConfigError
from nat.evaluation.results import provenance
from nat.evaluation.speed import time_alone
from nat.evaluation.system import System
from nat.models.contract import Translation, TranslationModel
from nat.rows import Rows
from nat.runs.precision import Precision, decoding_in

CPU = torch.device("cpu")
LENGTHS = [(length, 1) for length in (3, 7, 1, 17, 5, 12, 40, 1)]
VARIANTS = [
    {},
    {"factored_blank": True},
    {"decoder": {"cross_attention": False}},
    {"deep_supervision": {"enabled": True}, "decoder": {"num_layers": 2}},
    {"copying": {"enabled": True}},
    {"positions": {"kind": "learned", "max_length": 96}},
]


class Caller:
    """records: how often something was recorded; replays: shapes that were computed since."""

    def __init__(self) -> None:
        self.records = 0
        self.replays: list[torch.Size] = []

    def record(self, work: Callable[[], Rows]) -> Replay:
        results = work()
        self.records += 1

        def replay() -> Rows:
            made = work()
            for f in fields(made):
                getattr(results, f.name).copy_(getattr(made, f.name))
            self.replays.append(getattr(made, fields(made)[0].name).shape)
            return results

        return replay


def decode(
    model: TranslationModel, rows: list[list[int]], graphs: GraphedDecoder | None, **options: Any
) -> list[Decoded]:
    found: dict[int, Decoded] = {}
    decoding = type(model).Decoding(**options)
    for size in (1, 5):
        batches = decode_in_batches(
            model, rows, decoding=decoding, batches=BatchOptions(size), device=CPU, graphs=graphs
        )
        for indices, items in batches:
            found |= {(size, int(i)): item for i, item in zip(indices, items, strict=True)}
    return [found[key] for key in sorted(found)]


@pytest.mark.parametrize(
    ("variant", "options"), [*((variant, {}) for variant in VARIANTS), ({}, {"allow_unknown": False, "history": True})]
)
def test_translations_are_those_without_graphs(variant: dict[str, Any], options: dict[str, Any]) -> None:
    model, caller = make_model("ctc", dtype=torch.float64, **variant), Caller()
    rows = make_batch(LENGTHS, vocabularies=model.vocabularies).source.to_lists()
    expected, graphs = decode(model, rows, None, **options), GraphedDecoder(model, caller)
    for _ in range(2):
        for one, other in zip(decode(model, rows, graphs, **options), expected, strict=True):
            assert one.tokens == other.tokens and one.scores == pytest.approx(other.scores, abs=1e-9)
            assert plain_history(one) == plain_history(other)
    assert caller.records == len({(1, 8), (1, 12), (1, 24), (1, 48), (6, 48), (3, 8)})
    assert len(caller.replays) == 2 * (len(rows) + 2)
    assert {shape[0] for shape in caller.replays} == {1, 3, 6}


def plain_history(decoded: Decoded) -> list[Any]:
    """Without confidences, which are rounded."""
    return [(step["tokens"], step["fate"]) for passes in decoded.history or [] for step in passes]


def test_sizes_are_few_and_at_most_a_third_of_one_is_padding() -> None:
    sizes = [rounded_up(number) for number in range(1, 1000)]
    assert sorted(set(sizes))[:9] == [1, 2, 3, 4, 6, 8, 12, 16, 24] and len(set(sizes)) == 20
    assert all(number <= size < 1.5 * number + 1 for number, size in enumerate(sizes, start=1))


def test_a_bucket_is_no_longer_than_what_the_model_takes() -> None:
    model, caller = make_model("ctc", positions={"kind": "learned", "max_length": 20}), Caller()
    assert model.max_source_length == 10
    rows = make_batch([(9, 1)], vocabularies=model.vocabularies).source.to_lists()
    decode(model, rows, GraphedDecoder(model, caller))
    assert [shape[-1] for shape in caller.replays] == [20, 20]


def test_the_graph_that_served_least_recently_goes_first() -> None:
    model, caller = make_model("ctc"), Caller()
    graphs = GraphedDecoder(model, caller, most_graphs=2)
    for length, records in ((3, 1), (10, 2), (5, 2), (20, 3), (4, 3), (9, 4)):
        source = make_batch([(length, 1)], vocabularies=model.vocabularies).source
        with torch.inference_mode():
            graphs.decode(source, decoding=model.Decoding())
        assert (caller.records, len(graphs.recorded)) == (records, min(records, 2)), length


def test_precision_and_options_have_graphs_of_their_own() -> None:
    model, caller = make_model("ctc"), Caller()
    graphs, source = GraphedDecoder(model, caller), make_batch([(3, 1)], vocabularies=model.vocabularies).source
    for precision in (Precision.FP32, Precision.BF16):
        for allowed in (True, False):
            with torch.inference_mode(), decoding_in(precision, CPU):
                graphs.decode(source, decoding=model.Decoding(allow_unknown=allowed))
    assert caller.records == 4


@pytest.mark.parametrize(
    ("name", "options"),
    [("ctc", {"beam_size": 2}), ("ctc", {"temperature": 1.0}), ("vanilla", {}), ("mask_predict", {})],
)
def test_what_has_no_static_part_is_decoded_as_ever(name: str, options: dict[str, Any]) -> None:
    model, caller = make_model(name, dtype=torch.float64), Caller()
    rows = make_batch(LENGTHS[:3], vocabularies=model.vocabularies).source.to_lists()
    assert decode(model, rows, GraphedDecoder(model, caller), **options) == decode(model, rows, None, **options)
    assert caller.records == 0 and model.static_pass(type(model).Decoding(**options)) is None


def test_attention_that_asks_the_device_is_not_recorded() -> None:
    assert make_model("ctc", attention="reformer").static_pass(make_model("ctc").Decoding()) is None


def test_large_batches_and_drafts_are_decoded_without_a_graph() -> None:
    model, caller = make_model("ctc"), Caller()
    large = make_batch([(600, 1)] * 12, vocabularies=model.vocabularies).source
    small = make_batch([(3, 1)], vocabularies=model.vocabularies).source
    phrases = Phrases(torch.ones(1, 1, 2, dtype=torch.long), torch.ones(1, 1, 2, dtype=torch.bool))
    for source in (large, replace(small, phrases=phrases)):
        with torch.inference_mode():
            found = GraphedDecoder(model, caller).decode(source, decoding=model.Decoding())
        assert isinstance(found, Translation) and caller.records == 0


def test_a_translator_decodes_with_them_alone_and_in_batches(
    tiny_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, caller = load(tiny_runs["ctc"], device="cpu"), Caller()
    monkeypatch.setattr(translator, "check_graphs", lambda *given: None)
    monkeypatch.setattr(translator, "CudaRecorder", lambda: caller)
    decoding = plain.decoding({})
    sentences = ["Yes." * number for number in (1, 9, 2, 17, 5)]
    system = System("ctc", plain.with_cuda_graphs(decoding), decoding)
    assert system.translator.translate(sentences) == plain.translate(sentences)
    assert (caller.records, len(caller.replays), plain.graphs) == (1, 1, None)
    time_alone([system], sentences)
    assert len(caller.replays) == 1 + 5 + 6  # every sentence before any time is taken: its graph is recorded then
    assert provenance(system)["cuda_graphs"] and not provenance(replace(system, translator=plain))["cuda_graphs"]


def test_they_are_refused_where_they_cannot_be() -> None:
    ctc, vanilla, cuda = make_model("ctc"), make_model("vanilla"), torch.device("cuda")
    check_graphs(ctc, ctc.Decoding(), cuda)
    with pytest.raises(ConfigError, match=r"^decoding\.cuda_graphs=true: needs a GPU, device=cuda$"):
        check_graphs(ctc, ctc.Decoding(), CPU)
    for model, decoding, name in ((ctc, ctc.Decoding(beam_size=2), "CTC"), (vanilla, vanilla.Decoding(), "Vanilla")):
        with pytest.raises(ConfigError, match=rf"^decoding\.cuda_graphs=true: {name} with these options has no part"):
            check_graphs(model, decoding, cuda)
