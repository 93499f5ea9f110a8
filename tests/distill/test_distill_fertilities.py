"""Fertilities of a corpus: sum T for every line, from each source, whatever the batches, shards and kills."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workers
from builders import VOCABULARIES, distil, distilled_lines
from jaxtyping import Float
from torch import Tensor

import nat
from nat.data.batch import Batch
from nat.data.pairs import Pair
from nat.data.tokenizer import Tokenizers
from nat.decoding.batch_options import BatchOptions
from nat.distill import fertilities
from nat.distill.fertilities import AlignmentFile, WordAligner, attention_fertilities, link_fertilities
from nat.errors import DataError
from nat.models.autoregressive import Autoregressive
from nat.models.contract import TranslationModel
from nat.models.ctc import CTC

FAST = ["decoding.batch_size=16", "shard_size=25", "data.limit=100"]


@pytest.fixture(scope="module")
def made(tiny_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a distillation with these options, made once."""
    folders: dict[tuple[str, ...], Path] = {}

    def make(*options: str) -> Path:
        if "fertilities=aligner" in options:
            pytest.importorskip("thot")
        if options not in folders:
            folders[options] = tmp_path_factory.mktemp("distilled") / "whole"
            teacher = f"teacher={tiny_runs['autoregressive']}"
            assert distil(teacher, f"output={folders[options]}", *FAST, *options) == 0
        return folders[options]

    return make


SOURCES = pytest.mark.parametrize("source", ["attention", "aligner"])
TARGETS = pytest.mark.parametrize("targets", ["teacher", "corpus"])


# --- the command -----------------------------------------------------------------------------------


@SOURCES
@TARGETS
def test_every_line_has_fertilities_of_its_texts(
    source: str, targets: str, made: Callable[..., Path], tiny_runs: dict[str, Path]
) -> None:
    folder = made(f"fertilities={source}", f"targets={targets}")
    tokenizers = nat.load(tiny_runs["autoregressive"]).tokenizers
    lines = distilled_lines(folder)
    assert len(lines) == 100
    for line in lines:
        assert len(line["fertilities"]) == len(tokenizers.source.encode([line["en"]])[0])
        assert sum(line["fertilities"]) == len(tokenizers.target.encode([line["de"]])[0])
        assert min(line["fertilities"]) >= 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["fertilities"]["source"] == source
    numbers = [number for line in lines for number in line["fertilities"]]
    assert manifest["fertilities"]["maximum"] == max(numbers)
    assert manifest["fertilities"]["share_of_zeros"] == pytest.approx(numbers.count(0) / len(numbers), abs=1e-4)
    assert ("sil-thot" in manifest["versions"]) == (source == "aligner")
    assert manifest["fertilities"].get("layer") == ("last" if source == "attention" else None)
    assert manifest["targets"] == targets


@SOURCES
def test_but_for_fertilities_the_lines_are_the_same(source: str, made: Callable[..., Path]) -> None:
    found = distilled_lines(made(f"fertilities={source}", "targets=teacher"))
    for line in found:
        del line["fertilities"]
    assert found == distilled_lines(made())


def test_given_targets_have_the_teachers_score(made: Callable[..., Path], tiny_runs: dict[str, Path]) -> None:
    folder = made("fertilities=attention", "targets=corpus")
    lines, translated = distilled_lines(folder), distilled_lines(made())
    assert [line["line"] for line in lines] == [line["line"] for line in translated]
    assert [line["en"] for line in lines] == [line["en"] for line in translated]
    assert sum(a["de"] != b["de"] for a, b in zip(lines, translated, strict=True)) > 20
    teacher = nat.load(tiny_runs["autoregressive"])
    scores = teacher.score([line["en"] for line in lines[:9]], [line["de"] for line in lines[:9]])
    assert scores == pytest.approx([line["score"] for line in lines[:9]], abs=1e-3)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["bleu_against_original"] is None
    assert manifest["num_lines"] == 100


def test_candidates_have_fertilities_of_their_own(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    options = ["decoding.beam_size=2", "decoding.num_candidates=2", "data.limit=8", "fertilities=attention"]
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", *options) == 0
    tokenizer = nat.load(tiny_runs["autoregressive"]).tokenizers.target
    lines = distilled_lines(tmp_path / "d")
    assert len(lines) == 16
    for line in lines:
        assert sum(line["fertilities"]) == len(tokenizer.encode([line["de"]])[0])


def without_scores(folder: Path) -> list[dict[str, Any]]:
    """A score's last digit depends on the batch that the sentence was decoded in."""
    return [{key: value for key, value in line.items() if key != "score"} for line in distilled_lines(folder)]


def test_batches_and_shards_do_not_matter(
    made: Callable[..., Path], tiny_runs: dict[str, Path], tmp_path: Path
) -> None:
    expected = without_scores(made("fertilities=attention", "targets=teacher"))
    options = ["decoding.batch_size=7", "shard_size=1000", "data.limit=100", "fertilities=attention"]
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'other'}", *options) == 0
    assert without_scores(tmp_path / "other") == expected


def test_killed_and_resumed_gives_the_same_lines(
    made: Callable[..., Path], tiny_runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    options = ["decoding.batch_size=16", "shard_size=4", "data.limit=100"]
    arguments = [f"teacher={tiny_runs['autoregressive']}", f"output={folder}", "fertilities=attention", *options]
    log = str(tmp_path / "log")
    process = workers.start(workers.struck, arguments, log, folder, 40, module="nat.cli.distill")
    assert workers.finish(process) == -signal.SIGKILL, Path(log).read_text()
    assert 0 < len(list(folder.glob("parts/000/shard-*.jsonl"))) < 25
    assert distil(*arguments) == 0
    assert without_scores(folder) == without_scores(made("fertilities=attention", "targets=teacher"))


def test_the_aligner_has_learnt_from_the_whole_corpus(
    made: Callable[..., Path], tiny_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.loads(line) for line in (made("fertilities=aligner", "targets=corpus") / "train.jsonl").open()]
    tokenizers = Tokenizers.load(tiny_runs["autoregressive"] / "tokenizer")
    sources = tokenizers.source.encode([line["en"] for line in lines])
    targets = tokenizers.target.encode([line["de"] for line in lines])
    pairs = [Pair(*ids) for ids in zip(sources, targets, strict=True)]
    expected = link_fertilities(pairs, aligned(pairs))
    assert [line["fertilities"] for line in lines] == expected
    monkeypatch.setattr(WordAligner, "learn", lambda self: None)
    assert link_fertilities(pairs, aligned(pairs)) != expected


def test_killed_while_aligning(
    made: Callable[..., Path], tiny_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = (made("fertilities=aligner", "targets=teacher") / "train.jsonl").read_bytes()
    arguments = [f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", "fertilities=aligner", *FAST]
    with monkeypatch.context() as patch:
        patch.setattr(WordAligner, "links", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert distil(*arguments) != 0
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["job.json", "parts"]
    assert distil(*arguments) == 0
    assert (tmp_path / "d" / "train.jsonl").read_bytes() == expected


def test_a_file_of_alignments_is_counted(made: Callable[..., Path], tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    """The file has a line for each pair of the corpus, also for those that are left out."""
    tokenizers = nat.load(tiny_runs["autoregressive"]).tokenizers
    pairs = [("Open", "Das Öffnen geht"), ("too many words by far in this one", "x"), ("Close it", "Schliessen")]
    (tmp_path / "t.tsv").write_text("".join("\t".join(pair) + "\n" for pair in pairs), encoding="utf-8")
    lengths = [[len(ids) for ids in tokenizers.source.encode(list(pair))] for pair in pairs]
    last = f"{lengths[2][0] - 1}-0"
    (tmp_path / "t.align").write_text(f"\n99-99 7-8\n{last}\n")
    data = [f"data.train={tmp_path / 't.tsv'}", "data.max_words=4", "data.limit=null", "data.columns=[en,de]"]
    options = [*data, "targets=corpus", "fertilities=alignments", f"alignments={tmp_path / 't.align'}"]
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", *options) == 0
    lines = distilled_lines(tmp_path / "d")
    assert [line["line"] for line in lines] == [1, 3]
    num_source, num_target = lengths[0]
    spread = [int((t + 0.5) * num_source / num_target) for t in range(num_target)]
    assert lines[0]["fertilities"] == np.bincount(spread, minlength=num_source).tolist()
    assert lines[1]["fertilities"] == [0] * (lengths[2][0] - 1) + [lengths[2][1]]


def test_a_student_reads_them(
    made: Callable[..., Path],
    tiny_runs: dict[str, Path],
    tmp_path: Path,
    nat_train: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the file to `batch.fertilities`, in training; None in validation, whose corpus has no such column."""
    seen: dict[bool, list[Batch]] = {True: [], False: []}
    honest = CTC.loss

    def watched(self: CTC, batch: Batch, *, update: int) -> Any:
        seen[self.training].append(batch)
        return honest(self, batch, update=update)

    monkeypatch.setattr(CTC, "loss", watched)
    folder, teacher = made("fertilities=attention", "targets=corpus"), tiny_runs["autoregressive"]
    code = nat_train(
        "experiment=tiny",
        "model=ctc",
        f"run_dir={tmp_path / 'student'}",
        f"data.train={folder / 'train.jsonl'}",
        "data.fertilities=fertilities",
        f"data.tokenizer.path={teacher / 'tokenizer'}",
        "trainer.max_updates=2",
        "validation.max_sentences=4",
    )
    assert code == 0
    assert seen[True]
    for batch in seen[True]:
        assert batch.fertilities is not None
        assert batch.fertilities.sum(dim=1).tolist() == batch.target.lengths.tolist()
    assert seen[False]
    assert all(batch.fertilities is None for batch in seen[False])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["fertilities=atention"], "fertilities=atention: "),
        (["targets=corpsu"], "targets=corpsu: "),
        (["attention_layer=1"], "attention_layer=1: has no effect without fertilities=attention"),
        (["fertilities=attention", "attention_layer=0"], "attention_layer=0: must be at least 1"),
        (
            ["fertilities=attention", "attention_layer=2"],
            "fertilities=attention: attention_layer=2: must be one of the decoder's layers, 1 to 1",
        ),
        (["alignments=x"], "alignments=x: has no effect without fertilities=alignments"),
        (["fertilities=alignments", "targets=corpus"], "alignments: fertilities=alignments needs a file"),
        (["fertilities=alignments", "alignments=x"], "fertilities=alignments: needs targets=corpus"),
        (["fertilities=alignments", "alignments=/no", "targets=corpus"], "/no: there is no such file"),
        (["targets=corpus", "engine=ctranslate2"], "engine=ctranslate2: has no effect with targets=corpus"),
        (["targets=corpus", "decoding.beam_size=2"], "decoding.beam_size: has no effect with targets=corpus"),
        (["targets=corpus", "decoding.cuda_graphs=true"], "decoding.cuda_graphs: has no effect with targets=corpus"),
        (["data.fertilities=f"], "data.fertilities=f: nat-distill makes fertilities, it reads none"),
        (["fertilities=attention"], "holds a distillation with other fertilities"),
        (["targets=corpus"], "holds a distillation with other targets"),
    ],
)
def test_refusals(
    overrides: list[str],
    words: str,
    made: Callable[..., Path],
    tiny_runs: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = made()
    capsys.readouterr()
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={folder}", *FAST, *overrides) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1


def test_a_folder_with_fertilities_is_no_folder_without(
    made: Callable[..., Path], tiny_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made("fertilities=attention", "targets=teacher")
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={folder}", *FAST) == 2
    assert "holds a distillation with other fertilities" in capsys.readouterr().err


def test_a_teacher_without_such_attention_is_refused(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distil(f"teacher={tiny_runs['ctc']}", f"output={tmp_path / 'd'}", *FAST, "fertilities=attention") == 2
    assert "fertilities=attention: CTC has no cross-attention from given targets" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_without_the_aligner_its_extra_is_named(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "thot", None)
    monkeypatch.setitem(sys.modules, "thot.alignment", None)
    teacher = f"teacher={tiny_runs['autoregressive']}"
    assert distil(teacher, f"output={tmp_path / 'd'}", *FAST, "fertilities=aligner") == 2
    assert "the package sil-thot is needed: pip install 'nat-translation[aligner]'" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


# --- files of alignments ---------------------------------------------------------------------------


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "a.align").write_text(text)
    return tmp_path / "a.align"


def test_alignments_are_read_line_by_line(tmp_path: Path) -> None:
    file = AlignmentFile.read(written(tmp_path, "0-0 1-2\n\n3-1\n"))
    assert len(file) == 3
    assert [links.tolist() for links in file.links([2, 0, 1])] == [[[3, 1]], [[0, 0], [1, 2]], []]
    file.check(3, np.array([0, 2]), np.array([2, 4]), np.array([3, 2]))


@pytest.mark.parametrize("item", ["0", "0-", "1--2", "a-1", "0:1", "0-1-2", "-1-2", "1.0-2", "0-1234567890", "²-1"])
def test_what_is_no_link_is_named(tmp_path: Path, item: str) -> None:
    path = written(tmp_path, f"0-0\n1-1 {item} 2-2\n")
    with pytest.raises(DataError) as caught:
        AlignmentFile.read(path)
    assert str(caught.value) == f"{path} line 2: '{item}' is no link such as 0-0"


@pytest.mark.parametrize("link", ["2-0", "0-3", "7-9"])
def test_links_beyond_the_pair_are_named(tmp_path: Path, link: str) -> None:
    path = written(tmp_path, f"9-9\n\n1-2 {link}\n0-0\n")
    with pytest.raises(DataError) as caught:
        AlignmentFile.read(path).check(4, np.array([1, 2, 3]), np.array([1, 2, 1]), np.array([1, 3, 1]))
    assert str(caught.value).startswith(f"{path} line 3: link {link}, but the pair has 2 source and 3 target tokens")


def test_a_file_of_other_length_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "0-0\n")
    with pytest.raises(DataError, match=r"a.align: 1 lines of alignments, but the corpus has 2 pairs"):
        AlignmentFile.read(path).check(2, np.array([0]), np.array([1]), np.array([1]))
    with pytest.raises(DataError, match="0 lines of alignments"):
        AlignmentFile.read(written(tmp_path, "")).check(1, np.array([0]), np.array([1]), np.array([1]))


# --- the aligner -----------------------------------------------------------------------------------


def dictionary_corpus(number: int) -> tuple[list[Pair], list[np.ndarray]]:
    """Sources of distinct words; source word i is translated by one or two words of its own, neighbours at times
    change places. The pairs and their true links."""
    random = np.random.default_rng(3)
    pairs, truth = [], []
    for _ in range(number):
        source = random.permutation(40)[: random.integers(2, 9)]
        order = np.arange(len(source))
        if random.random() < 0.3:
            order[:2] = order[1::-1]
        target = [(100 + source[i] * 2 + k, i) for i in order for k in range(1 + source[i] % 2)]
        pairs.append(Pair(source.tolist(), [int(word) for word, _ in target]))
        truth.append(np.array([(i, t) for t, (_, i) in enumerate(target)]))
    return pairs, truth


def aligned(pairs: list[Pair]) -> list[np.ndarray]:
    aligner = WordAligner()
    aligner.add(pairs)
    aligner.learn()
    return aligner.links(pairs)


def test_the_aligner_finds_a_dictionary() -> None:
    pytest.importorskip("thot")
    pairs, truth = dictionary_corpus(400)
    found = aligned(pairs)
    right = sum(
        len(set(map(tuple, a.tolist())) & set(map(tuple, b.tolist()))) for a, b in zip(found, truth, strict=True)
    )
    assert right > 0.97 * sum(len(links) for links in truth)
    counts = link_fertilities(pairs, found)
    true_counts = [[1 + word % 2 for word in pair.source] for pair in pairs]
    assert np.mean([a == b for a, b in zip(counts, true_counts, strict=True)]) > 0.9


def test_the_aligner_gives_the_same_links_again() -> None:
    pytest.importorskip("thot")
    pairs, _ = dictionary_corpus(100)
    first, second = aligned(pairs), aligned(pairs)
    assert [links.tolist() for links in first] == [links.tolist() for links in second]


def test_empty_and_very_long_pairs_have_no_links() -> None:
    pytest.importorskip("thot")
    odd = [Pair([], [7]), Pair([7], []), Pair([7] * 1500, [8] * 1500), Pair([7, 8], [9])]
    found = aligned(odd)
    assert [len(links) for links in found[:3]] == [0, 0, 0]
    counts = link_fertilities(odd, found)
    assert counts[:3] == [[], [0], [1] * 1500]
    assert sum(counts[3]) == 1


# --- attention -------------------------------------------------------------------------------------


class Looking(TranslationModel):
    """Target token v looks at the source token of the same number, if it is there, else at the first; sentences of
    more than 6 tokens are too long."""

    def loss(self, batch: Batch, *, update: int) -> Any:
        raise NotImplementedError

    def decode(self, source: Any, *, decoding: Any) -> Any:
        raise NotImplementedError

    def learnable(self, batch: Batch) -> Tensor:
        return (batch.source.lengths > 0) & (batch.source.lengths <= 6)

    def cross_attention(self, batch: Batch, *, layer: int | None = None) -> Float[Tensor, "B T S"]:
        assert len(batch) > 0
        assert bool(self.learnable(batch).all())
        assert layer == 3
        same = (batch.target.tokens[:, :, None] == batch.source.tokens[:, None, :]).float()
        first = torch.arange(same.size(2)) == 0
        return (same + 0.5 * first).softmax(dim=2)


def looked_at(pairs: Iterable[Pair], batch_size: int) -> list[list[int]]:
    model = Looking(VOCABULARIES)
    return attention_fertilities(
        model, list(pairs), layer=3, batches=BatchOptions(batch_size), device=torch.device("cpu")
    )


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_attention_counts_what_is_looked_at(batch_size: int) -> None:
    pairs = [
        Pair([7, 8, 9], [9, 9, 8, 11]),
        Pair([7] * 8, [7, 7, 7, 7]),  # too long for the teacher: by position
        Pair([7], []),
        Pair([10, 12], [12, 12, 12, 12, 12, 10]),
        Pair([], [7]),
    ]
    expected = [[1, 1, 2], [0, 1] * 4, [0], [1, 5], []]
    assert looked_at(pairs, batch_size) == expected


def test_only_long_pairs() -> None:
    assert looked_at([Pair([7] * 8, [8])], 4) == [[0, 0, 0, 0, 1, 0, 0, 0]]


def test_the_teachers_attention_is_asked_for_its_own_layer(tiny_runs: dict[str, Path]) -> None:
    teacher = nat.load(tiny_runs["autoregressive"])
    assert isinstance(teacher.model, Autoregressive)
    pairs = [Pair([7, 8, 9], [10, 11]), Pair([12], [13, 14, 15, 16])]
    both = [
        attention_fertilities(teacher.model, pairs, layer=layer, batches=BatchOptions(2), device=teacher.device)
        for layer in (None, 1)
    ]
    assert both[0] == both[1]
    assert [sum(row) for row in both[0]] == [2, 4]


def test_the_layer_asked_for_is_the_one_that_is_read(
    tiny_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    honest = Autoregressive.cross_attention

    def watched(self: Autoregressive, batch: Batch, *, layer: int | None = None) -> Tensor:
        asked.append(layer)
        return honest(self, batch, layer=layer)

    monkeypatch.setattr(Autoregressive, "cross_attention", watched)
    options = ["data.limit=8", "shard_size=4", "fertilities=attention", "attention_layer=1"]
    assert distil(f"teacher={tiny_runs['autoregressive']}", f"output={tmp_path / 'd'}", *options) == 0
    assert asked == [1, 1, 1]  # once to see whether there is one, then for each shard


def test_matrices_of_links_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [Pair([7] * n, [8] * (n + 1)) for n in range(1, 9)]
    links = [np.array([(n, n + 1) for n in range(len(pair.source))]) for pair in pairs]
    expected = [[2] + [1] * (len(pair.source) - 1) for pair in pairs]
    sizes: list[int] = []
    honest = fertilities.from_links
    monkeypatch.setattr(
        fertilities, "from_links", lambda matrix, *valid: sizes.append(len(matrix)) or honest(matrix, *valid)
    )
    for size, together in ((1, [1] * 8), (3, [3, 3, 2]), (64, [8])):
        monkeypatch.setattr(fertilities, "MATRICES", BatchOptions(size))
        assert link_fertilities(pairs, links) == expected
        assert sizes == together
        sizes.clear()
