"""What all tests share: one thread, a cache of their own, shapes checked at run time, tiny models and runs.

Shape annotations are checked by jaxtyping and beartype in tests only: the hook below must stand before the first
import of nat.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, and for the processes that tests start
os.environ["TOKENIZERS_PARALLELISM"] = "false"
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
CACHE = os.environ["NAT_CACHE"] if IS_WORKER else tempfile.mkdtemp(prefix="nat-test-cache-")  # one for all workers
os.environ["NAT_CACHE"] = CACHE
PYTHONPATH = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(PYTHONPATH)  # for the processes that tests start

import typecheck  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

CHECKED = ["nat.ops", "nat.nn", "nat.models", "nat.losses", "nat.search", "nat.rows", "nat.data.batch"]
CHECKED += [f"nat.decoding.{name}" for name in ("batched", "candidates", "history", "requests")]
typecheck.install()
install_import_hook(CHECKED, "typecheck.checked")

import pytest  # noqa: E402
import torch  # noqa: E402
import workers  # noqa: E402
from builders import command, make_batch, make_model  # noqa: E402
from filelock import FileLock  # noqa: E402

from nat.data.batch import Batch  # noqa: E402
from nat.models.contract import TranslationModel  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="there is no GPU here"))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not IS_WORKER:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture
def build_model() -> Callable[..., TranslationModel]:
    return make_model


@pytest.fixture
def build_batch() -> Callable[..., Batch]:
    return make_batch


@pytest.fixture
def nat_train() -> Callable[..., int]:
    return command


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run that takes a second: 150 real pairs, 12 updates."""
    from nat.data.corpus import embedded_directory
    from nat.data.lines import read_lines

    path = tmp_path_factory.mktemp("small") / "small.tsv"
    pairs = (line.split("\t") for line in read_lines(embedded_directory() / "lohelp" / "valid.tsv.gz"))
    chosen = [pair for pair in pairs if all(3 <= len(side.split()) <= 8 for side in pair)][:150]
    path.write_text("".join("\t".join(pair) + "\n" for pair in chosen), encoding="utf-8")
    return [
        "experiment=tiny",
        *(f"data.{split}={path}" for split in ("train", "valid", "test")),
        "data.tokenizer.vocabulary_size=250",
        "model.size={dim: 16, num_heads: 2, ffn_dim: 32, dropout: 0.1}",
        "trainer={max_updates: 12, tokens_per_update: 300, log_every: 1, save_every: 5, device: cpu}",
        "validation={every: 4, max_sentences: 6, keep_best: 2}",
    ]


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of `nat-train experiment=tiny`, about 300 updates each, made once for all workers of a session. Read
    them, never write into them."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if IS_WORKER else base) / "tiny_runs"
    shared.mkdir(exist_ok=True)
    runs = {name: shared / name for name in ("autoregressive", "ctc")}
    for name, run in runs.items():
        with FileLock(shared / f"{name}.lock"):  # the first worker trains, the others wait for it
            if (shared / f"{name}.done").exists():
                continue
            budget = ["trainer.max_updates=300", "validation.every=100", "trainer.save_every=100"]
            log = shared / f"{name}.log"
            arguments = ["experiment=tiny", f"model={name}", f"run_dir={run}", *budget]
            process = workers.start(workers.command, arguments, str(log))  # without shape checks: several times faster
            assert workers.finish(process, 280) == 0, log.read_text()
            (shared / f"{name}.done").touch()
    return runs
