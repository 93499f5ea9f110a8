"""Models of transformers as teachers: they translate and score as transformers itself does, and distil."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import command, distilled_lines
from hub import Hub
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

import nat
from nat.data.batching import collate
from nat.data.cache_contents import Kind, entries
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.data.pairs import Pair
from nat.engines import hub_ctranslate2
from nat.engines.base import ComputeType
from nat.engines.choice import Engine, accelerate
from nat.errors import ConfigError, DataError

transformers = pytest.importorskip("transformers")

SENTENCES = ["Save the file.", "Click OK to close the dialog.", "Open", "Choose a name for the new style."]
SIZES: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 80,
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    rows = (line.split("\t") for line in read_lines(embedded_directory() / "lohelp" / "valid.tsv.gz"))
    return [(source, target) for source, target in rows if len(source.split()) < 9][:200]


def pieces(texts: list[str], path: Path) -> list[str]:
    """A SentencePiece model of 200 pieces."""
    made = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=made, vocab_size=200, hard_vocab_limit=False, minloglevel=2
    )
    path.write_bytes(made.getvalue())
    processor = SentencePieceProcessor(model_proto=made.getvalue())
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def save_random(model: Any, folder: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    pad = model.config.pad_token_id
    model.get_input_embeddings().weight.data[pad] = 0.0  # as in trained ones, which never write it either
    model.get_input_embeddings().weight.data[model.config.eos_token_id] *= 2  # so that translations end
    model.generation_config.bad_words_ids = [[pad]]
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("marian")
    vocabulary = {"</s>": 0, "<unk>": 1}
    for side, texts in zip(("source", "target"), zip(*pairs, strict=True), strict=True):
        for piece in pieces(list(texts), folder / f"{side}.spm"):
            vocabulary.setdefault(piece, len(vocabulary))
    vocabulary["<pad>"] = pad = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    transformers.MarianTokenizer(*files, source_lang="en", target_lang="de").save_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary), pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, **SIZES
    )
    save_random(transformers.MarianMTModel(config), folder)
    return folder


@pytest.fixture(scope="module")
def m2m100(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("m2m100")
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for piece in pieces([text for pair in pairs for text in pair], folder / "sentencepiece.bpe.model"):
        vocabulary.setdefault(piece, len(vocabulary))
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    config = transformers.M2M100Config(vocab_size=len(tokenizer) + 110, decoder_start_token_id=2, **SIZES)
    save_random(transformers.M2M100ForConditionalGeneration(config), folder)
    return folder


def scored_pieces(pairs: list[tuple[str, str]], folder: Path) -> list[tuple[str, float]]:
    """Of both sides, without SentencePiece's own symbols."""
    names = pieces([text for pair in pairs for text in pair], folder / "spiece.model")
    processor = SentencePieceProcessor(str(folder / "spiece.model"))
    return [(name, processor.get_score(i)) for i, name in enumerate(names) if i > 2]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scored_pieces(pairs, folder)]
    tokenizer = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=10)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=len(tokenizer) + 6, decoder_start_token_id=0, **sizes)
    save_random(transformers.T5ForConditionalGeneration(config), folder)
    return folder


@pytest.fixture(scope="module")
def mbart(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("mbart")
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scored_pieces(pairs, folder)]
    tokenizer = transformers.MBartTokenizer(vocab=vocabulary, src_lang="en_XX", tgt_lang="de_DE")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(4)
    config = transformers.MBartConfig(vocab_size=len(tokenizer) + 2, forced_eos_token_id=None, **SIZES)
    save_random(transformers.MBartForConditionalGeneration(config), folder)
    return folder


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("nllb")
    names = ["<s>", "<pad>", "</s>", "<unk>", *(name for name, _ in scored_pieces(pairs, folder))]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = transformers.NllbTokenizer(vocab=vocabulary, merges=[], src_lang="eng_Latn", tgt_lang="deu_Latn")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    config = transformers.M2M100Config(vocab_size=len(tokenizer) + 2, decoder_start_token_id=2, **SIZES)
    save_random(transformers.M2M100ForConditionalGeneration(config), folder)
    return folder


NAMED = {  # what stands behind the name of a model
    "m2m100": "?source=en&target=de",
    "t5": "?prefix=translate English to German: ",
    "mbart": "?source=en_XX&target=de_DE",
    "nllb": "?source=eng_Latn&target=deu_Latn",
}


def name_of(folder: Path) -> str:
    return f"hf:{folder}{NAMED.get(folder.name[:-1], '')}"


@pytest.fixture(params=["marian", "m2m100"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def text_words(folder: Path, pairs: list[tuple[str, str]]) -> list[str]:
    """A file of these pairs, as words of a command."""
    lines = [f"{source}\t{target}\n" for source, target in pairs]
    (folder / "train.tsv").write_text("".join(lines), encoding="utf-8")
    return ["data=files", f"data.train={folder}/train.tsv", "data.columns=[en,de]", f"data.cache={folder}/cache"]


def theirs(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The tokenizer and the model as transformers opens them, and what its generation must be told."""
    codes = {"src_lang": "en", "tgt_lang": "de"} if folder.name.startswith("m2m100") else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **codes)
    told = {"forced_bos_token_id": tokenizer.get_lang_id("de")} if codes else {}
    return tokenizer, transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), told


@pytest.mark.parametrize("beam_size", [1, 3])
def test_translations_are_those_of_transformers(folder: Path, beam_size: int) -> None:
    tokenizer, model, told = theirs(folder)
    expected = []
    for sentence in SENTENCES:
        inputs = tokenizer([sentence], return_tensors="pt")
        length = len(tokenizer(sentence, add_special_tokens=False).input_ids)
        row = model.generate(**inputs, num_beams=beam_size, max_new_tokens=2 * length + 22, **told)[0].tolist()
        words = set(tokenizer.get_vocab().values()) - {*tokenizer.all_special_ids, *told.values()}
        kept = [i for i in row if i in words or i == tokenizer.unk_token_id]
        expected.append(tokenizer.decode(kept[: 2 * length + 20]))
    translated = nat.load(name_of(folder)).translate(SENTENCES, beam_size=beam_size)
    assert [text.split() for text in translated] == [text.split() for text in expected]


def test_scores_are_those_of_transformers(folder: Path, pairs: list[tuple[str, str]]) -> None:
    tokenizer, model, told = theirs(folder)
    sources, targets = map(list, zip(*pairs[:6], strict=True))
    expected = []
    for source, target in zip(sources, targets, strict=True):
        labels = tokenizer(text_target=[target], return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(**tokenizer([source], return_tensors="pt"), labels=labels).logits
        values = logits.log_softmax(-1).gather(2, labels[:, :, None])[0, :, 0]
        expected.append(float(values[len(told) :].sum()))
    scored = nat.load(name_of(folder)).score(sources, targets)
    assert scored == pytest.approx(expected, abs=1e-4)


def test_a_sentence_does_not_depend_on_its_batch(folder: Path) -> None:
    teacher = nat.load(name_of(folder))
    for options in ({}, {"beam_size": 2}, {"temperature": 1.0}):
        together = teacher.translate(SENTENCES, **options)
        assert together == [teacher.translate([sentence], **options)[0] for sentence in SENTENCES]
        assert together == teacher.translate(SENTENCES[::-1], batch_size=3, **options)[::-1]
    assert teacher.translate(SENTENCES, temperature=1.0) != teacher.translate(SENTENCES, temperature=1.0, seed=2)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_ctranslate2_finds_the_same(marian: Path, beam_size: int) -> None:
    pytest.importorskip("ctranslate2")
    teacher = nat.load(name_of(marian))
    engine = accelerate(teacher, Engine.CTRANSLATE2)
    options = {"beam_size": beam_size, "max_length_offset": 6, "max_length_factor": 0.5}
    ours, theirs = (one.candidates(SENTENCES, **options) for one in (teacher, engine))
    assert [item.tokens for item in theirs] == [item.tokens for item in ours]
    for one, other in zip(ours, theirs, strict=True):
        if not one.truncated:
            assert other.scores == pytest.approx(one.scores, abs=1e-3)
    assert engine.translate(SENTENCES[::-1], batch_size=2, **options)[::-1] == [item.best for item in theirs]


@pytest.mark.parametrize("kind", sorted(NAMED))
def test_ctranslate2_knows_the_languages(kind: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("ctranslate2")
    teacher = nat.load(name_of(request.getfixturevalue(kind)))
    engine = accelerate(teacher, Engine.CTRANSLATE2)
    ours, theirs = (one.candidates(SENTENCES, max_length_offset=60) for one in (teacher, engine))
    assert [item.tokens for item in theirs] == [item.tokens for item in ours]
    assert any(item.best for item in ours)
    if kind in ("t5", "mbart"):  # else theirs has that of the language, too
        whole = [(one.scores, other.scores) for one, other in zip(ours, theirs, strict=True) if not one.truncated]
        assert whole
        for one, other in whole:
            assert other == pytest.approx(one, abs=1e-3)


@pytest.mark.parametrize("kind", ["t5", "mbart", "nllb"])
def test_other_families_translate_as_transformers(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    named = dict(part.split("=") for part in NAMED[kind][1:].split("&"))
    codes = {f"{key}_lang": named[name] for key, name in (("src", "source"), ("tgt", "target")) if name in named}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **codes)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    language = tokenizer.convert_tokens_to_ids(named["target"]) if "target" in named else None
    told = {"decoder_start_token_id" if kind == "mbart" else "forced_bos_token_id": language} if language else {}
    expected = []
    for sentence in SENTENCES:
        text = named.get("prefix", "") + sentence
        row = model.generate(**tokenizer([text], return_tensors="pt"), max_new_tokens=60, **told)[0].tolist()
        names = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
        expected.append(tokenizer.decode([i for i in row if i in names][:58]))
    teacher = nat.load(name_of(folder))
    assert teacher.translate(SENTENCES, max_length_factor=0.0, max_length_offset=58) == expected
    assert any(expected)


def test_a_teacher_is_converted_once(marian: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ctranslate2")
    monkeypatch.setenv("NAT_CACHE", str(tmp_path / "cache"))
    teacher, converted = nat.load(name_of(marian)), []
    convert = hub_ctranslate2.convert
    monkeypatch.setattr(hub_ctranslate2, "convert", lambda *words: [converted.append(words[2]), convert(*words)])
    first = accelerate(teacher, Engine.CTRANSLATE2).translate(SENTENCES)
    copy = tmp_path / "copy"  # of another name, with the same content
    shutil.copytree(marian, copy)
    assert accelerate(nat.load(f"hf:{copy}"), Engine.CTRANSLATE2).translate(SENTENCES) == first
    assert converted == [ComputeType.FP32]
    (folder,) = [entry.path for entry in entries(tmp_path / "cache") if entry.kind == Kind.ENGINES.value]
    (folder / "model.bin").unlink()
    assert accelerate(teacher, Engine.CTRANSLATE2).translate(SENTENCES) == first
    accelerate(teacher, Engine.CTRANSLATE2, ComputeType.INT8)
    assert converted == [ComputeType.FP32, ComputeType.FP32, ComputeType.INT8]


def test_int8_distils(marian: Path, tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    pytest.importorskip("ctranslate2")
    words = text_words(tmp_path, pairs[:20])
    options = ["engine=ctranslate2", "decoding.precision=int8", "decoding.beam_size=2"]
    assert command(f"teacher='{name_of(marian)}'", f"output={tmp_path}/out", *words, *options, name="distill") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["engine"], manifest["precision"]) == ("ctranslate2", "int8")
    assert len(distilled_lines(tmp_path / "out")) == manifest["num_lines"] > 0


def test_candidates_have_the_scores_of_the_model(folder: Path) -> None:
    teacher = nat.load(name_of(folder))
    (found,) = teacher.candidates(SENTENCES[:1], beam_size=3, num_candidates=3)
    assert len(found.texts) == 3
    pairs = [(teacher.tokenizers.source.encode(SENTENCES[:1])[0], ids) for ids in found.tokens]
    batch = collate([Pair(*pair) for pair in pairs])
    with torch.no_grad():
        assert found.scores == pytest.approx(teacher.model.score(batch).tolist(), abs=1e-4)


def test_it_scores_noisy_parallel_decodes(marian: Path) -> None:
    teacher = nat.load(name_of(marian))
    student = nat.load("embedded:en-de")
    (chosen,) = student.candidates(SENTENCES[:1], num_candidates=4, temperature=1.0, teacher=teacher)
    assert chosen.teacher_scores is not None
    best = max(range(4), key=lambda i: chosen.teacher_scores[i] or 0.0)  # type: ignore[index]
    assert chosen.chosen == best


def test_a_corpus_is_distilled(folder: Path, tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    words = text_words(tmp_path, pairs[:20])
    options = [f"teacher='{name_of(folder)}'", f"output={tmp_path}/out", *words, "decoding.max_length_offset=3"]
    assert command(*options, name="distill") == 0
    found = distilled_lines(tmp_path / "out")
    unseen = [line for line in found if line["en"] not in [source for source, _ in pairs[:20]]]
    assert found
    assert not unseen
    teacher = nat.load(name_of(folder))
    texts = teacher.translate([line["en"] for line in found], max_length_offset=3, allow_unknown=False)
    assert [line["de"] for line in found] == texts


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("hf:{marian}?langs=en", ConfigError, "langs is no option of a model of transformers"),
        ("hf:{m2m100}?source=en&target=xx", ConfigError, "target=xx: no language of this model"),
        ("hf:{marian}/none", DataError, "the hub does not give this model"),
    ],
)
def test_what_is_no_teacher_is_refused(
    name: str, error: type[Exception], message: str, marian: Path, m2m100: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=message):
        nat.load(name.format(marian=marian, m2m100=m2m100))


def test_weights_of_pickles_are_refused(marian: Path, tmp_path: Path) -> None:
    for path in marian.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(marian)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be opened"):
        nat.load(f"hf:{tmp_path}")


def test_it_is_not_trained(marian: Path) -> None:
    with pytest.raises(ConfigError, match="nat does not train it"):
        nat.load(name_of(marian)).model.loss(None, update=1)  # type: ignore[arg-type]


@pytest.fixture
def hub(marian: Path) -> Iterator[Hub]:
    hub = Hub("me/opus", marian)
    yield hub
    hub.close()


def test_a_teacher_of_the_hub(hub: Hub, marian: Path, tmp_path: Path) -> None:
    done = hub.decode("hf:me/opus", SENTENCES[0], home=tmp_path / "home")
    assert done.stdout.splitlines() == nat.load(name_of(marian)).translate(SENTENCES[:1]), done.stderr


def test_a_report_of_a_teacher_of_transformers(m2m100: Path, tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    text_words(tmp_path, pairs[:6])
    words = [f"run_dirs=['{name_of(m2m100)}&beam_size=2&name=theirs']", f"output={tmp_path}/report"]
    data = [f"data.{key}={value}" for key, value in {"test": f"{tmp_path}/train.tsv", "columns": "[en,de]"}.items()]
    assert command(*words, "data=files", *data, name="report") == 0
