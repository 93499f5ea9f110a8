"""What every method promises. A new configs/model/NAME.yaml is tested here without touching a test."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import yaml
from builders import MODELS, make_batch, make_model, pair_batch, vocabularies_of
from oracles import rows_of
from sacrebleu.metrics import BLEU

from nat.composition import compose, config_directory
from nat.config import Component, locate, option, parse, to_plain
from nat.data.batch import Batch, Source, Target
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.data.points import IndexTokenizer, PointTokenizer
from nat.data.tasks import Task
from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import decode_in_batches
from nat.errors import ConfigError
from nat.models.contract import TranslationModel
from nat.models.options import DecodingOptions
from nat.ops.ctc import collapse
from nat.runs.precision import Precision
from nat.runs.weights import load_weights, save_tensors
from nat.search.canvas import Fate
from nat.training.objective import objective

EACH_MODEL = pytest.mark.parametrize("name", MODELS)
VARIANTS = [{}, {"size": {"norm": "post"}}, {"positions": {"kind": "learned", "max_length": 64}}]
LENGTHS = [(5, 4), (1, 1), (7, 5), (3, 3), (4, 2)]
TOLERANCE = 1e-9  # in float64
TECHNIQUES = {  # options of training or of the decoder's input that are off by default, by the name of the field
    "glancing": {"start": 0.5, "end": 0.5},
    "deep_supervision": {"enabled": True},
    "copy": "soft",
    "copying": {"enabled": True, "num_heads": 2},
    "share_decoders": "none",
    "length": {"summary": "token"},
    "factored_blank": True,
    "transitions": {"kind": "dynamic", "rank": 4},
    "beam": 6,
    "crf": {"weight": 0.5, "beam": 6, "transitions": {"kind": "dynamic", "rank": 4}},
}
# Losses that do not insist on every token's place, of methods with this option.
FORGIVING: tuple[dict[str, Any], ...] = (
    {"loss": "axe", "skip_target": 2.0},
    {"loss": "oaxe", "truncation": 0.05, "annealing": {"start": 1.0, "end": 0.1, "updates": 100}},
)


def techniques() -> list[tuple[str, dict[str, Any]]]:
    """Every model with each of its techniques, and with all of them."""
    found = []
    for name in MODELS:
        target = locate(str(compose("train", ["run_dir=x", f"model={name}"])["model"]["_target_"]))
        names = {f.name for f in dataclasses.fields(target.Config)}  # type: ignore[attr-defined]
        own = {field: value for field, value in TECHNIQUES.items() if field in names}
        if "factored_blank" in names:  # a canvas of slots
            own["decoder"] = {"cross_attention": False}
        found += [(name, {field: value}) for field, value in own.items()] + ([(name, own)] if len(own) > 1 else [])
        found += [(name, options) for options in FORGIVING if options.keys() <= names]
    return found


def decodings(model: TranslationModel) -> list[DecodingOptions]:
    """The default, samples, and n-best lists of a beam or of several lengths where the method has them; short, to be
    quick."""
    kind = type(model).Decoding
    names = {f.name for f in dataclasses.fields(kind)}
    short: dict[str, Any] = {"max_length_factor": 1.0, "max_length_offset": 3} if "max_length_offset" in names else {}
    found = [kind(**short), sampling(model, num_candidates=3, **short)]
    if "length_beam" in names:
        passes = {"max_passes": 3} if "max_passes" in names else {}
        found.append(kind(**{"length_beam": 4, "num_candidates": 3} | passes | short))
    if "beam_size" in names and getattr(model, "crf", None) is None:  # which is of one path alone
        found.append(kind(**{"beam_size": 4, "num_candidates": 3} | short))
    return found


def sampling(model: TranslationModel, *, temperature: float = 1.0, **given: Any) -> DecodingOptions:
    """Samples, of the most probable length where that is an option."""
    kind = type(model).Decoding
    lengths = {"length_beam": 1} if "length_beam" in {f.name for f in dataclasses.fields(kind)} else {}
    return kind(temperature=temperature, **lengths, **given)


def can_score(model: TranslationModel) -> bool:
    try:
        with torch.no_grad():
            model.score(make_batch([(3, 2)], vocabularies=model.vocabularies))
    except ConfigError:
        return False
    return True


def left_padded(batch: Batch, extra: int) -> Batch:
    """The same pairs with all padding on the left, `extra` more columns of it on either side."""

    def shift(tokens: Any) -> Any:
        rows = tokens.to_lists()
        width = max(map(len, rows)) + extra
        shifted = type(tokens).from_lists([[0] * (width - len(row)) + row for row in rows])
        valid = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
        return type(tokens)(shifted.tokens, valid)

    source = shift(batch.source)
    fertilities = torch.zeros_like(source.tokens)
    assert batch.fertilities is not None
    fertilities[source.valid] = batch.fertilities[batch.source.valid]
    return Batch(source, shift(batch.target), fertilities)


def wider(batch: Batch, extra: int) -> Batch:
    """`extra` more columns of padding on the right, filled with an ordinary token: only `valid` may count."""

    def widen(tokens: Any) -> Any:
        junk = tokens.tokens.new_full((len(tokens), extra), NUM_SYMBOLS)
        ids = torch.cat((tokens.tokens.masked_fill(~tokens.valid, NUM_SYMBOLS), junk), dim=1)
        return type(tokens)(ids, torch.nn.functional.pad(tokens.valid, (0, extra)))

    assert batch.fertilities is not None
    fertilities = torch.nn.functional.pad(batch.fertilities, (0, extra))
    return Batch(widen(batch.source), widen(batch.target), fertilities)


# --- the YAML ---------------------------------------------------------------------------------------


def options_of(config: type, prefix: str = "") -> dict[str, Any]:
    """Dotted option -> default, of a Config and of the dataclasses nested in it."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(config)
    for f in dataclasses.fields(config):
        kind = hints[f.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind is not Component:
            found |= options_of(kind, f"{prefix}{f.name}.")
            if f.default_factory is not dataclasses.MISSING:  # the outer class may have defaults of its own
                found |= flatten(to_plain(f.default_factory()), f"{prefix}{f.name}.")
        else:
            has = f.default is not dataclasses.MISSING
            found[prefix + f.name] = to_plain(f.default) if has else dataclasses.MISSING
    return found


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


COMPONENT_YAMLS = sorted(
    str(path.relative_to(config_directory()))
    for path in config_directory().rglob("*.yaml")
    if "_target_" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", COMPONENT_YAMLS)
def test_yaml_lists_every_option_with_default_and_comment(path: str) -> None:
    text = (config_directory() / path).read_text(encoding="utf-8")
    given = flatten(yaml.safe_load(text))
    target = given.pop("_target_")
    known = options_of(locate(target).Config)  # type: ignore[attr-defined]
    assert given.keys() == known.keys()
    free = {"shape"} if path.startswith("schedule/") else set()  # the choice of a schedule is its shape
    for name, default in known.items():
        if default is not dataclasses.MISSING and name not in free:
            assert given[name] == default, name
    for line in text.splitlines():
        key = re.match(r"^\s*(\w+):\s*\S", line)
        if key and key.group(1) != "_target_":
            assert re.search(r"#\s*\S", line), f"{path}: {key.group(1)} has no comment"
    assert text.startswith("# ")


def test_the_yaml_test_sees_options_of_nested_dataclasses() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        width: int = option(3)

    @dataclasses.dataclass(frozen=True)
    class Outer:
        name: str = option()
        inner: Inner = dataclasses.field(default_factory=Inner)

    Outer.__annotations__ = {"name": str, "inner": Inner}
    assert options_of(Outer) == {"name": dataclasses.MISSING, "inner.width": 3}


@EACH_MODEL
def test_every_option_has_help(name: str) -> None:
    target = locate(str(compose("train", ["run_dir=x", f"model={name}"])["model"]["_target_"]))
    for kind in (target.Config, target.Decoding):  # type: ignore[attr-defined]
        for f in dataclasses.fields(kind):
            hint = typing.get_type_hints(kind)[f.name]
            assert f.metadata.get("help") or dataclasses.is_dataclass(hint), f.name


# --- loss -------------------------------------------------------------------------------------------


@EACH_MODEL
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shared", [True, False])
def test_loss_is_finite_positive_and_reaches_every_parameter(name: str, variant: dict[str, Any], shared: bool) -> None:
    vocabularies = vocabularies_of(name)
    if not vocabularies.points:
        vocabularies = Vocabularies(NUM_SYMBOLS + 9, NUM_SYMBOLS + (9 if shared else 12), shared)
    model = make_model(name, vocabularies=vocabularies, **variant).train()
    batch = make_batch(LENGTHS, vocabularies=vocabularies)
    terms = model.loss(batch, update=1)
    assert any(term.weight for term in terms.values())
    for term in terms.values():
        assert term.total.shape == term.count.shape == ()
        assert torch.isfinite(term.total)
    share = objective(terms, int(batch.num_target_tokens))
    assert share.item() > 0
    share.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@EACH_MODEL
def test_loss_terms_of_a_batch_are_sums_over_its_rows(name: str) -> None:
    model = make_model(name, dtype=torch.float64, label_smoothing=0.1)
    batch = make_batch(LENGTHS, vocabularies=model.vocabularies)
    together = model.loss(batch, update=3)
    alone = [model.loss(row, update=3) for row in rows_of(batch)]
    for key, term in together.items():
        assert term.total.item() == pytest.approx(sum(row[key].total.item() for row in alone), abs=TOLERANCE), key
        assert term.count.item() == sum(row[key].count.item() for row in alone), key


@EACH_MODEL
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pad", [wider, left_padded])
@pytest.mark.parametrize("lengths", [LENGTHS, [(4, 3)]])
def test_padding_changes_neither_loss_nor_score_nor_decode(
    name: str, variant: dict[str, Any], pad: Any, lengths: list[tuple[int, int]]
) -> None:
    model = make_model(name, dtype=torch.float64, **variant)
    batch = make_batch(lengths, vocabularies=model.vocabularies)
    padded = pad(batch, 3)
    before, after = model.loss(batch, update=1), model.loss(padded, update=1)
    for key in before:
        assert after[key].total.item() == pytest.approx(before[key].total.item(), abs=TOLERANCE)
    with torch.no_grad():
        if can_score(model):
            assert torch.allclose(model.score(padded), model.score(batch), rtol=0, atol=TOLERANCE)
        for decoding in decodings(model):
            same_translations(model, batch.source, padded.source, decoding)


def same_translations(model: TranslationModel, one: Source, other: Source, decoding: DecodingOptions) -> None:
    first, second = model.decode(one, decoding=decoding), model.decode(other, decoding=decoding)
    width = min(first.valid.size(2), second.valid.size(2))
    assert torch.equal(first.tokens[:, :, :width], second.tokens[:, :, :width])
    assert torch.equal(first.valid[:, :, :width], second.valid[:, :, :width])
    assert not first.valid[:, :, width:].any() and not second.valid[:, :, width:].any()  # wider by padding alone
    assert torch.allclose(first.scores, second.scores, rtol=0, atol=TOLERANCE)
    assert torch.equal(first.passes, second.passes)
    assert torch.equal(first.truncated, second.truncated)


@pytest.mark.parametrize(("name", "options"), techniques())
def test_in_training_techniques_keep_the_promises(name: str, options: dict[str, Any]) -> None:
    """Their noise is the rows' own: nothing depends on batch or padding. Every parameter learns."""
    model = make_model(name, dtype=torch.float64, **options).train()
    batch = make_batch(LENGTHS, vocabularies=model.vocabularies)
    together = model.loss(batch, update=3)
    alone = [model.loss(row, update=3) for row in rows_of(batch)]
    padded = [model.loss(pad(batch, 3), update=3) for pad in (wider, left_padded)]
    for key, term in together.items():
        assert term.total.item() == pytest.approx(sum(row[key].total.item() for row in alone), abs=TOLERANCE), key
        assert term.count.item() == sum(row[key].count.item() for row in alone), key
        for other in padded:
            assert other[key].total.item() == pytest.approx(term.total.item(), abs=TOLERANCE), key
            assert other[key].count == term.count
    objective(together, int(batch.num_target_tokens)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(("name", "options"), techniques())
def test_with_techniques_a_row_alone_decodes_as_in_a_batch(name: str, options: dict[str, Any]) -> None:
    model = make_model(name, dtype=torch.float64, seed=3, **options)
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if "feedback" in part or "gate" in part:  # as if it had learnt what it says
                parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = make_batch([*LENGTHS, (9, 1), (2, 1)], vocabularies=model.vocabularies)
    for decoding in decodings(model):
        together = translations(model, batch.source, decoding)
        rows = [Source.from_lists([row]) for row in batch.source.to_lists()]
        assert together == [translations(model, row, decoding)[0] for row in rows]
        with torch.no_grad():
            same_translations(model, batch.source, left_padded(batch, 2).source, decoding)


# --- decode -----------------------------------------------------------------------------------------


def translations(model: TranslationModel, source: Source, decoding: DecodingOptions) -> list[Any]:
    """For every row: its hypotheses, scores (rounded far below what could matter), passes, truncated."""
    with torch.no_grad():
        found = model.decode(source, decoding=decoding)
    return [
        (
            [ids[keep].tolist() for ids, keep in zip(found.tokens[i], found.valid[i], strict=True)],
            [round(score, 9) for score in found.scores[i].tolist()],
            found.passes[i].item(),
            found.truncated[i].item(),
        )
        for i in range(len(found))
    ]


@EACH_MODEL
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_alone_decodes_as_in_a_batch_in_any_order(name: str, variant: dict[str, Any]) -> None:
    model = make_model(name, dtype=torch.float64, seed=3, **variant)
    source = make_batch([*LENGTHS, (9, 1), (2, 1)], vocabularies=model.vocabularies).source
    for decoding in decodings(model):
        together = translations(model, source, decoding)
        rows = [Source.from_lists([row]) for row in source.to_lists()]
        assert together == [translations(model, row, decoding)[0] for row in rows]
        order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
        assert translations(model, source.select(order), decoding) == [together[i] for i in order.tolist()]


@EACH_MODEL
def test_in_bf16_a_sentence_alone_is_translated_as_in_a_batch(name: str) -> None:
    model = make_model(name)
    source = make_batch([(1 + 5 * i % 11, 1) for i in range(16)], vocabularies=model.vocabularies).source
    found: list[list[Any]] = []
    for batch_size in (1, 16):
        translated: dict[int, Any] = {}
        batches = decode_in_batches(
            model,
            source.to_lists(),
            decoding=decodings(model)[0],
            batches=BatchOptions(batch_size),
            device=source.device,
            precision=Precision.BF16,
        )
        for indices, items in batches:
            translated |= {int(i): item for i, item in zip(indices, items, strict=True)}
        found.append([translated[i] for i in range(len(source))])
    for one, other in zip(*found, strict=True):
        assert (one.tokens, one.passes) == (other.tokens, other.passes)
        assert one.scores == pytest.approx(other.scores, abs=1e-3)


@EACH_MODEL
def test_the_history_is_that_of_each_candidate_and_changes_nothing(name: str) -> None:
    model = make_model(name, dtype=torch.float64)
    source = make_batch(LENGTHS, vocabularies=model.vocabularies).source
    for decoding in decodings(model):
        with torch.no_grad():
            plain = model.decode(source, decoding=decoding)
            found = model.decode(source, decoding=dataclasses.replace(decoding, history=True))
        assert plain.history == ()
        assert torch.equal(found.tokens, plain.tokens)
        assert torch.equal(found.scores, plain.scores)
        assert len(found.history) == found.tokens.size(1)
        for n, history in enumerate(found.history):
            assert (history.confidence <= 0).all()
            for row in range(len(source)):
                real = history.fate[row] != Fate.NONE
                last = max([0, *real.any(dim=1).nonzero().flatten().tolist()])
                left = real[last] & (history.fate[row, last] != Fate.DELETED)
                tokens, valid = history.tokens[row : row + 1, last], left[None]
                made = found.tokens[row, n, found.valid[row, n]].tolist()
                written = tokens[valid].tolist()
                turned = [written[k:] + written[:k] for k in range(len(written))]  # a polygon, from its lowest on
                assert made == written or made in turned or made == collapsed(tokens, valid)


def collapsed(path: torch.Tensor, valid: torch.Tensor) -> list[int]:
    """The tokens of an alignment."""
    tokens, kept = collapse(path, valid, blank=int(Symbol.BLANK), pad=int(Symbol.PAD))
    return tokens[kept].tolist()


@EACH_MODEL
def test_samples_follow_the_seed_and_the_first_are_the_same_however_many(name: str) -> None:
    model = make_model(name, dtype=torch.float64)
    source = make_batch([*LENGTHS, (9, 1), (2, 1)], vocabularies=model.vocabularies).source

    def samples(number: int, **given: Any) -> list[Any]:
        decoding = sampling(model, num_candidates=number, **given)
        return [list(zip(*row[:2], strict=True)) for row in translations(model, source, decoding)]

    three = samples(3)
    assert [row[:2] for row in three] == samples(2)
    assert samples(3) == three
    assert samples(3, seed=2) != three
    assert samples(3, temperature=0.3) != three
    assert any(len({tuple(tokens) for tokens, _ in row}) > 1 for row in three)
    with pytest.raises(ConfigError, match="seed=2: has no effect without temperature"):
        type(model).Decoding(seed=2)


@EACH_MODEL
def test_no_special_symbol_but_unk_is_decoded(name: str) -> None:
    for seed in range(4):
        model = make_model(name, seed=seed)
        with torch.no_grad():  # make the forbidden ones tempting: they would win without their -inf
            if not model.points:  # which has no vocabulary
                model.net.embeddings.target.weight[:NUM_SYMBOLS] *= 4  # type: ignore[union-attr, operator, index]
        source = make_batch([(6, 1), (2, 1), (9, 1)], vocabularies=model.vocabularies, seed=seed).source
        for decoding in decodings(model):
            for hypotheses, *_ in translations(model, source, decoding):
                used = {token for hypothesis in hypotheses for token in hypothesis}
                assert used & {int(s) for s in Symbol} <= {int(Symbol.UNK)}


@EACH_MODEL
@pytest.mark.parametrize("copying", [False, True])
def test_unknown_words_can_be_banned(name: str, copying: bool) -> None:
    fields = {f.name for f in dataclasses.fields(type(make_model(name)).Config)}
    if copying and "copying" not in fields:
        pytest.skip("this method cannot copy")
    options: dict[str, Any] = {"copying": {"enabled": True, "initial_share": 0.9}} if copying else {}
    model = make_model(name, dtype=torch.float64, seed=2, **options)
    unknown = int(Symbol.UNK)
    if model.points:
        with pytest.raises(ConfigError, match="allow_unknown=false: has no effect on points"):
            type(model).Decoding(allow_unknown=False)
        return
    with torch.no_grad():  # its logit is the sum of all others
        model.net.embeddings.target.weight[unknown] = model.net.embeddings.target.weight.sum(dim=0)  # type: ignore[union-attr, operator, index]
    source = make_batch([(6, 1), (2, 1), (9, 1)], vocabularies=model.vocabularies).source
    source = dataclasses.replace(source, tokens=source.tokens.masked_fill(source.tokens == NUM_SYMBOLS + 3, unknown))
    seen = 0
    for decoding in decodings(model):
        free = [tokens for row in translations(model, source, decoding) for tokens in row[0]]
        seen += sum(tokens.count(unknown) for tokens in free)
        strict = dataclasses.replace(decoding, allow_unknown=False)
        together = translations(model, source, strict)
        assert not any(unknown in tokens for row in together for tokens in row[0])
        assert all(score > -math.inf for row in together for score in row[1])
        assert together == [translations(model, source.select(torch.tensor([i])), strict)[0] for i in range(3)]
    assert seen > 0


@EACH_MODEL
def test_padding_of_a_translation_is_pad_and_on_the_right(name: str) -> None:
    model = make_model(name)
    with torch.no_grad():
        for decoding in decodings(model):
            found = model.decode(make_batch(LENGTHS, vocabularies=model.vocabularies).source, decoding=decoding)
            assert (found.tokens[~found.valid] == int(Symbol.PAD)).all()
            assert (found.valid.int().diff(dim=2) <= 0).all()
            assert found.tokens.shape[:2] == found.scores.shape == (len(LENGTHS), decoding.num_candidates)
            assert (found.passes >= 1).all()
            by_another_score = decoding.is_random or {"length_penalty", "length_beam"} & vars(decoding).keys()
            assert by_another_score or (found.scores.diff(dim=1) <= 1e-6).all()


@EACH_MODEL
def test_the_score_of_its_own_translation_is_finite_and_no_less_than_reported(name: str) -> None:
    model = make_model(name, dtype=torch.float64)
    if not can_score(model):
        pytest.skip("this method cannot score")
    source = make_batch(LENGTHS, vocabularies=model.vocabularies).source
    with torch.no_grad():
        found = model.decode(source, decoding=type(model).Decoding())
        tokens = [ids[keep].tolist() for ids, keep in zip(found.tokens[:, 0], found.valid[:, 0], strict=True)]
        scores = model.score(Batch(source, Target.from_lists(tokens)))
    assert torch.isfinite(scores).all()
    assert (scores <= 0).all()
    if not model.score_is_bound:
        assert (found.scores[:, 0] <= scores + TOLERANCE).all()


@EACH_MODEL
def test_learnable_and_canvas_length_answer_for_every_row(name: str) -> None:
    model = make_model(name)
    batch = make_batch(LENGTHS, vocabularies=model.vocabularies)
    assert model.learnable(batch).shape == (len(LENGTHS),)
    lengths = batch.source.lengths.numpy(), batch.target.lengths.numpy()
    assert (model.canvas_length(*lengths) >= 1).all()


# --- weights and learning ---------------------------------------------------------------------------


@EACH_MODEL
def test_weights_survive_safetensors(name: str, tmp_path: Any) -> None:
    model, other = make_model(name, seed=1), make_model(name, seed=2)
    batch = make_batch(LENGTHS, vocabularies=model.vocabularies)
    save_tensors(model.state_dict(), tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    for key, term in model.loss(batch, update=1).items():
        assert torch.equal(term.total, other.loss(batch, update=1)[key].total)


@pytest.fixture(scope="module")
def six_sentences() -> tuple[Tokenizers, list[str], list[str]]:
    """Six real pairs, none far longer than the other side, and a tokenizer of their text, with pieces so long that no
    target has one twice: seeing one of two equal pieces, insertion cannot tell which, and may end slots too soon."""
    lines = read_lines(embedded_directory() / "lohelp" / "valid.tsv.gz")
    pairs = [line.split("\t") for line in lines]
    chosen = [(s, t) for s, t in pairs if 4 <= len(s.split()) <= 9 and 4 <= len(t.split()) <= 9][:6]
    from nat.data.tokenizer import TokenizerConfig

    sources, targets = [s for s, _ in chosen], [t for _, t in chosen]
    config = parse(TokenizerConfig, {"vocabulary_size": 200, "kind": "bpe"})
    return Tokenizers.train(config, sources, targets), sources, targets


def six_polygons() -> tuple[Tokenizers, list[str], list[str]]:
    """For methods that point."""
    rows = list(Task.parse("convex_hull?points=5-9&pairs=6").rows())
    tokenizers = Tokenizers(PointTokenizer(), IndexTokenizer(9), False)
    return tokenizers, [str(row["source"]) for row in rows], [str(row["target"]) for row in rows]


ONE_TASK = {  # of a method that learns several at once, and in one stack; its own tests overfit them all
    "kermit": {"tasks": {"joint": 0.0, "backward": 0.0, "source": 0.0, "target": 0.0}, "encoder": {"num_layers": 4}},
}
LEARNERS = [(name, ONE_TASK.get(name, {})) for name in MODELS] + [
    (name, options) for name, options in techniques() if len(options) == 1 and "length" not in options
]
LEARNERS += [
    pytest.param(name, options, marks=pytest.mark.slow)  # type: ignore[misc]
    for name, options in techniques()
    if options in FORGIVING
]


@pytest.mark.parametrize(("name", "options"), LEARNERS)
def test_overfits_six_sentences_to_bleu_100(
    name: str, options: dict[str, Any], six_sentences: tuple[Tokenizers, list[str], list[str]]
) -> None:
    tokenizers, sources, targets = six_polygons() if vocabularies_of(name).points else six_sentences
    small: dict[str, Any] = {"size": {"dim": 48, "num_heads": 4, "ffn_dim": 96}}
    model = make_model(name, vocabularies=tokenizers.vocabularies, seed=1, **small, **options).train()
    batch = pair_batch(tokenizers.source.encode(sources), tokenizers.target.encode(targets))
    assert model.learnable(batch).all()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    for update in range(1, 801):  # insertion sees each of many states of a target rarely
        loss = objective(model.loss(batch, update=update), int(batch.num_target_tokens))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 25 == 0 and outputs(model, batch, tokenizers) == targets:
            break
    found = outputs(model, batch, tokenizers)
    assert found == targets
    assert BLEU().corpus_score(found, [targets]).score == pytest.approx(100.0)


def outputs(model: TranslationModel, batch: Batch, tokenizers: Tokenizers) -> list[str]:
    model.eval()
    found = translations(model, batch.source, type(model).Decoding())
    model.train()
    return tokenizers.target.decode([hypotheses[0] for hypotheses, *_ in found])
