"""The training state of a run, to resume from: written whole or not at all, and checked when it is read."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nat.config import option, parse, to_plain
from nat.errors import ConfigError, DataError
from nat.files import read_json, to_json, write_atomically, write_json
from nat.runs.folder import saved_states
from nat.runs.weights import WEIGHTS, load_fitting, load_tensors
from nat.training.averaging import MovingAverage
from nat.training.parallel import Parallel
from nat.training.selection import Kept

Spread = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]
STATE, OPTIMIZER, AVERAGE = "state.json", "optimizer.safetensors", "average.safetensors"


@dataclass
class TrainingState:
    """How far a run is."""

    update: int = option(help="updates done", minimum=0)
    epoch: int = option(help="epochs done", minimum=0)
    position: int = option(help="updates done in the epoch", minimum=0)
    tokens: int = option(help="target tokens seen", minimum=0)
    seconds: float = option(help="time spent", minimum=0)
    skipped: int = option(help="updates skipped since their gradient was not finite", minimum=0)
    skipped_in_row: int = option(help="those of them since the last good one", minimum=0)
    memory_splits: int = option(help="how often micro-batches were halved for want of memory", minimum=0)
    validated: int = option(help="update of the last validation", minimum=0)
    validations_since_best: int = option(help="validations since the best one", minimum=0)
    finished: bool = option(help="the budget was used, or patience ran out")

    @classmethod
    def at_start(cls) -> TrainingState:
        return cls(0, 0, 0, 0, 0.0, 0, 0, 0, 0, 0, False)


@dataclass(frozen=True)
class SavedState:
    """What, beside the tensors, a run must know to continue. tokenizer, corpus: keys of what it learns from. measure:
    key of what the values of `best` are of. scaler: of `torch.amp.GradScaler`. optimizer: plain part of its state."""

    state: TrainingState = option()
    best: list[Kept] = option()
    tokenizer: str = option()
    corpus: str = option()
    measure: str = option()
    scaler: dict[str, Any] = option()
    optimizer: dict[str, Any] = option()


class Checkpoint:
    """All that a run saves to go on from: `checkpoints/update-N` of a run folder. Leaving its context waits for what is
    still being written."""

    def __init__(
        self,
        folder: Path,
        parallel: Parallel,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: MovingAverage,
        keys: Mapping[str, str],
        *,
        keep: int = 1,
    ) -> None:
        """keys: tokenizer, corpus and measure, see `SavedState`. keep: how many of the last states stay."""
        self.folder, self.keys, self.keep = folder, keys, keep
        self.saved: int | None = None  # the update whose tensors were saved last, or read
        self.writer, self.pending = ThreadPoolExecutor(max_workers=1), list[Future[None]]()
        self.parallel, self.model = parallel, parallel.model
        self.optimizer, self.scaler, self.average = optimizer, scaler, average

    def save(self, state: TrainingState, best: list[Kept]) -> None:
        """Complete or not at all; all but the last `keep` are removed once it stands. The tensors are copied now and
        written while training goes on, see `finish`. Those of an update are what they are: saving it again renews only
        its plain data."""
        self.finish()
        path = self.folder / "checkpoints" / f"update-{state.update:08d}"
        optimizer, numbers = flatten_optimizer(self.optimizer.state_dict())
        plain = to_plain(SavedState(state, best, **self.keys, scaler=self.scaler.state_dict(), optimizer=numbers))
        if state.update == self.saved:
            if self.parallel.ranks.is_main:
                write_json(path / STATE, plain)
            return
        parts = {WEIGHTS: self.model.state_dict(), OPTIMIZER: optimizer, AVERAGE: self.average.weights}
        given = {file: tensors for file, tensors in parts.items() if tensors is not None}
        write = self.parallel.keep(given, path.with_name(f".{path.name}.shards"))
        self.pending.append(self.writer.submit(self._write, path, write, plain))
        self.saved = state.update

    def finish(self) -> None:
        """Wait until the last state stands. Raises DataError where it could not be written."""
        while self.pending:
            self.pending.pop().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.writer.shutdown()
        if error is None:
            self.finish()

    def _write(self, path: Path, write: Callable[[Path], None], plain: Any) -> None:
        def fill(part: Path) -> None:
            part.mkdir()
            write(part)
            (part / STATE).write_text(to_json(plain, indent=1), encoding="utf-8")

        if not self.parallel.ranks.is_main:
            try:
                write(path)
            except OSError as error:
                raise DataError(f"{path}: cannot be written ({error})") from None
            return
        write_atomically(path, fill)
        for old in (*saved_states(self.folder)[: -self.keep], *path.parent.glob(".update-*")):
            shutil.rmtree(old, ignore_errors=True)

    def restore(self, path: Path, device: torch.device) -> SavedState:
        """Fill model, optimiser, scaler and average from `path`. Raises DataError where it is damaged, or of another
        tokenizer or text; of a damaged one, its message names the older states, where there are any."""
        with self._naming_older(path):
            saved = read_training_state(path)
        if saved.tokenizer != self.keys["tokenizer"]:
            raise DataError(f"{path}: was trained with another tokenizer than {self.folder / 'tokenizer'}")
        if saved.corpus != self.keys["corpus"]:
            raise DataError(
                f"{path}: was trained on other pairs than data.train now gives (the text has changed, or what is kept "
                "of it); restore it, or choose another run_dir"
            )
        with self._naming_older(path):
            self._fill(path, saved, device)
        return saved

    def _fill(self, path: Path, saved: SavedState, device: torch.device) -> None:
        if (path / WEIGHTS).is_file():
            self._read_whole(path, saved, device)
        else:
            self._read_shards(path, saved)
        self.saved = saved.state.update
        own = self.scaler.state_dict()
        if kinds(saved.scaler) != kinds(own):
            raise DataError(f"{path / STATE}: damaged, or of another version of nat (scaler)")
        if own:
            self.scaler.load_state_dict(saved.scaler)

    def _read_whole(self, path: Path, saved: SavedState, device: torch.device) -> None:
        own, spread = self.model.state_dict(), self.parallel.spread
        self.model.load_state_dict(spread(load_fitting(path / WEIGHTS, own, device), own))
        load_optimizer(self.optimizer, path, saved.optimizer, device, spread=spread)
        if (path / AVERAGE).is_file():
            self.average.weights = spread(load_fitting(path / AVERAGE, own, device), own)

    def _read_shards(self, path: Path, saved: SavedState) -> None:
        """Of ranks that had parts of the model, however many they were and these are."""
        from nat.training import shard_files

        found, own, parameters = shard_files.stored(path), self.model.state_dict(), parameters_of(self.optimizer)
        parts: dict[str, dict[str, Tensor]] = {WEIGHTS: {n: torch.empty_like(t) for n, t in own.items()}, OPTIMIZER: {}}
        for key in (key for key in found if key.startswith(OPTIMIZER)):
            name = key.partition("/")[2]
            number = name.partition(".")[0]
            if not number.isdecimal() or int(number) not in parameters:
                raise DataError(f"{path}: does not fit this model's optimiser ({name})")
            like = parameters[int(number)]
            is_like = like.shape == found[key].shape
            parts[OPTIMIZER][name] = torch.empty_like(like if is_like else found[key], device=like.device)
        if any(name.startswith(AVERAGE) for name in found):
            parts[AVERAGE] = {name: torch.empty_like(tensor) for name, tensor in own.items()}
        shard_files.read(path, {f"{file}/{name}": t for file, part in parts.items() for name, t in part.items()})
        self.model.load_state_dict(parts[WEIGHTS])
        set_optimizer(self.optimizer, path, parts[OPTIMIZER], saved.optimizer)
        self.average.weights = parts.get(AVERAGE, self.average.weights)

    @contextlib.contextmanager
    def _naming_older(self, path: Path) -> Iterator[None]:
        """A damaged state is no end where there are older ones."""
        try:
            yield
        except DataError as error:
            older = [state.name for state in saved_states(self.folder) if state < path]
            if not older:
                raise
            way = f"delete {path}, and the same command goes on from {older[-1]}"
            raise DataError(f"{error}; older states are there ({', '.join(older)}): {way}") from None


def read_training_state(path: Path) -> SavedState:
    """The plain data of `checkpoints/update-N`. Raises DataError where it is damaged or lacks something."""
    try:
        return parse(SavedState, read_json(path / STATE))
    except ConfigError as error:
        reasons = "; ".join(str(error).splitlines()[:3])
        raise DataError(f"{path / STATE}: damaged, or of another version of nat ({reasons})") from None


# --- the optimiser ----------------------------------------------------------------------------------


def flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state_dict as named tensors and plain data."""
    slots = {f"{index}.{name}": value for index, own in state["state"].items() for name, value in own.items()}
    tensors = {name: value for name, value in slots.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in slots.items() if name not in tensors}
    groups = [{k: list(v) if isinstance(v, tuple) else v for k, v in g.items()} for g in state["param_groups"]]
    return tensors, {"state": numbers, "param_groups": groups}


def unflatten_optimizer(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **numbers["state"]}.items():
        index, _, slot = name.partition(".")
        state.setdefault(int(index), {})[slot] = value
    return {"state": state, "param_groups": numbers["param_groups"]}


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    path: Path,
    numbers: Mapping[str, Any],
    device: torch.device | str = "cpu",
    *,
    spread: Spread = lambda tensors, like: dict(tensors),
) -> None:
    """The optimiser's state of `checkpoints/update-N`. spread: see `Parallel`. Raises DataError where it is damaged or
    another model's."""
    tensors, parameters = load_tensors(path / OPTIMIZER, device), parameters_of(optimizer)

    def parts() -> dict[str, Tensor]:
        return spread(tensors, {name: parameters[int(name.partition(".")[0])] for name in tensors})

    set_optimizer(optimizer, path / OPTIMIZER, tensors, numbers, parts)


def set_optimizer(
    optimizer: torch.optim.Optimizer,
    path: Path,
    tensors: dict[str, Tensor],
    numbers: Mapping[str, Any],
    parts: Callable[[], dict[str, Tensor]] | None = None,
) -> None:
    """parts: of what is found to fit, this rank's. Raises DataError where it does not."""
    try:
        state = unflatten_optimizer(tensors, numbers)
        reason = misfit(optimizer, state)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"damaged: {error!r}"
    if reason:
        raise DataError(f"{path}: does not fit this model's optimiser ({reason})")
    optimizer.load_state_dict(state if parts is None else unflatten_optimizer(parts(), numbers))


def parameters_of(optimizer: torch.optim.Optimizer) -> dict[int, Tensor]:
    """By their numbers in its state."""
    return dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))


def misfit(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> str:
    """Why a state is not one of these parameters; "" if it is. torch itself would read beyond the end of a tensor."""
    own, groups = flatten_optimizer(optimizer.state_dict())[1]["param_groups"], state["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in own]:
        return f"{sum(len(group['params']) for group in groups)} parameters in {len(groups)} groups"
    for group, there in zip(own, groups, strict=True):
        wrong = [key for key in group.keys() & there.keys() if kinds(group[key]) != kinds(there[key])]
        if wrong:
            return f"{wrong[0]}={there[wrong[0]]}"
    parameters = parameters_of(optimizer)
    for index, slots in state["state"].items():
        if index not in parameters or slots.keys() != next(iter(state["state"].values())).keys():
            return f"parameter {index} has {', '.join(slots)}"
        for name, value in slots.items():
            shape = tuple(parameters[index].shape)
            if isinstance(value, Tensor) and value.dim() and tuple(value.shape) != shape:
                return f"{index}.{name} is {tuple(value.shape)}, the parameter {shape}"
    return ""


def kinds(value: Any) -> Any:
    """The types within plain data."""
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    return [kinds(item) for item in value] if isinstance(value, list) else type(value)
