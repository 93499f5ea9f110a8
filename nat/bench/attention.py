"""nat-bench attention: time and memory of each kind of self-attention against the length of its input.

What is measured is one layer's attention with its projections, forward and backward, from the gradient of its output to
those of its input and parameters. Full attention through `scaled_dot_product_attention` is always among the kinds: the
others stand beside it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nat.bench.memory import MEGABYTE, peak_bytes
from nat.composition import compose, config_directory
from nat.config import Component, merge, nearest, option, parse
from nat.errors import ConfigError
from nat.evaluation.speed import synchronize
from nat.nn.attention.base import Attention, attention_stack
from nat.progress import Progress

FULL = "full"


def known_kinds() -> list[str]:
    """The names in configs/attention."""
    return sorted(path.stem for path in (config_directory() / "attention").glob("*.yaml"))


@dataclass(frozen=True)
class AttentionSizes:
    kinds: list[str] = option([], "kinds of configs/attention, by name; []: all. Full attention is always measured")
    lengths: list[int] = option(
        [256, 512, 1024, 2048, 4096, 8192, 16384], "lengths N of the input, in tokens", minimum=1, maximum=1_000_000
    )
    fit_from: int = option(1024, "exponents are fitted over this length and longer ones", minimum=1)
    batch_size: int = option(1, "rows B", minimum=1, maximum=100_000)
    dim: int = option(256, "width D of the states", minimum=1, maximum=65536)
    num_heads: int = option(4, "attention heads", minimum=1, maximum=4096)
    padding: float = option(0.0, "share of each row that is padding; 0: no mask is given", minimum=0, below=1)
    bf16: bool = option(False, "under bfloat16 autocast; false: float32")
    cpu_time: bool = option(False, "count the time that the process had its core: for a machine that does other work")
    seconds: float = option(30.0, "of a kind at a length, at most: fewer rounds, or the length is left out", above=0)
    gigabytes: float = option(4.0, "lengths at which a kind would take more memory are left out", above=0)
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "options over a kind's YAML: options.local.window=64"}
    )
    figures: str | None = option(None, "JSON file of an earlier nat-bench attention, shown instead of measuring")
    picture: str | None = option(None, "SVG file of speed, score and memory; needs accuracy or bleu (extra `plot`)")
    accuracy: str | None = option(None, "nat-decode's JSON file of each kind, KIND for its name: its exact_match")
    bleu: str | None = option(None, "nat-decode's JSON file of each kind, KIND for its name: its BLEU")

    def __post_init__(self) -> None:
        known = known_kinds()
        errors = [f"kinds={kind}: no such kind, {nearest(kind, known)}" for kind in self.kinds if kind not in known]
        errors += [
            f"options.{kind}: no such kind, {nearest(kind, known)}" for kind in self.options if kind not in known
        ]
        errors += [
            f"options.{kind}={value}: a mapping of options is needed"
            for kind, value in self.options.items()
            if not isinstance(value, Mapping)
        ]
        if not self.lengths:
            errors.append("lengths=[]: at least one is needed")
        if (self.picture is None) != (self.accuracy is None and self.bleu is None):
            errors.append("picture: this and accuracy or bleu need each other")
        errors += [
            f"{name}={value}: must have KIND where the kind's name stands"
            for name, value in (("accuracy", self.accuracy), ("bleu", self.bleu))
            if value is not None and "KIND" not in value
        ]
        if errors:
            raise ConfigError("\n".join(errors))

    @property
    def contenders(self) -> list[str]:
        """Full attention first."""
        return [FULL, *(kind for kind in dict.fromkeys(self.kinds or known_kinds()) if kind != FULL)]


@dataclass(frozen=True)
class Point:
    """Of one kind at one length. milliseconds: the median of `rounds` passes. megabytes (10^6 bytes): the peak of a
    pass, above parameters and input."""

    length: int
    milliseconds: float
    rounds: int
    megabytes: float


@dataclass
class Curve:
    """What is known of one kind. left_out: why there is no point at the longer lengths."""

    name: str
    family: str = ""
    parameters: int = 0
    points: list[Point] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)

    def foreseen(self, length: int) -> tuple[float, float]:
        """Milliseconds and megabytes of a longer input, as the last two lengths grew; as N^2 after the first one."""
        if not self.points:
            return 0.0, 0.0
        last, before = self.points[-1], self.points[-2] if len(self.points) > 1 else None

        def grown(name: str) -> float:
            exponent = 2.0
            if before is not None:
                growth = getattr(last, name) / max(getattr(before, name), 1e-9)
                exponent = max(1.0, math.log(growth) / math.log(last.length / before.length)) if growth > 0 else 1.0
            return float(getattr(last, name) * (length / last.length) ** exponent)

        return grown("milliseconds"), grown("megabytes")


@dataclass(frozen=True)
class Layer:
    """One kind's attention, ready to work on an input (B, N, D)."""

    module: Attention
    x: Tensor
    gradient: Tensor
    valid: Tensor | None
    bf16: bool

    def clear(self) -> None:
        self.module.zero_grad(set_to_none=True)
        self.x.grad = None

    def work(self) -> None:
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.bf16):
            states = self.module(self.x, self.x, self.valid)
        states.backward(self.gradient.to(states.dtype))


def measure(
    sizes: AttentionSizes,
    *,
    repeats: int,
    device: torch.device,
    keep: Callable[[list[Curve]], object] = lambda curves: None,
) -> list[Curve]:
    """A curve of each kind, full attention's first. keep: hears of the curves whenever they have grown
    by a length. Raises ConfigError where a kind cannot be built."""
    peak_bytes(lambda: None, device)  # the profiler takes its time to start, once
    curves = [Curve(name) for name in sizes.contenders]
    lengths = sorted(set(sizes.lengths))
    with Progress("measure", total=2 * len(curves) * sum(lengths), unit="tokens") as progress:
        for length in lengths:
            layers = [(curve, layer) for curve in curves if (layer := _layer(curve, sizes, length, device)) is not None]
            progress.advance(2 * length * (len(curves) - len(layers)))
            _measure_length(layers, length, sizes, repeats, device, lambda n=length: progress.advance(n))  # type: ignore[misc]
            keep(curves)
    return curves


def _layer(curve: Curve, sizes: AttentionSizes, length: int, device: torch.device) -> Layer | None:
    """The kind at this length, or None where it is left out."""
    reason = _too_much(curve, sizes, length)
    if reason is None:
        try:
            module = build_kind(curve.name, sizes, length)
        except ConfigError as error:
            if curve.name in sizes.kinds:  # asked for by name
                raise
            reason = str(error)
    if reason is not None:
        curve.left_out[length] = reason
        return None
    curve.family = type(module).__module__.rpartition(".")[2]
    curve.parameters = sum(parameter.numel() for parameter in module.parameters())
    generator = torch.Generator().manual_seed(length)
    shape = (sizes.batch_size, length, sizes.dim)
    x, gradient = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    kept = max(1, length - int(sizes.padding * length))
    valid = (torch.arange(length, device=device) < kept).expand(shape[:2]) if sizes.padding else None
    return Layer(module.to(device).train(), x.requires_grad_(), gradient, valid, sizes.bf16)


def _too_much(curve: Curve, sizes: AttentionSizes, length: int) -> str | None:
    if curve.left_out:
        return next(iter(curve.left_out.values()))
    milliseconds, megabytes = curve.foreseen(length)
    if milliseconds > 1000.0 * sizes.seconds:
        return f"foreseen {milliseconds / 1000:.0f} s a pass, attention.seconds={sizes.seconds:g}"
    if megabytes > 1000.0 * sizes.gigabytes:
        return f"foreseen {megabytes / 1000:.1f} GB, attention.gigabytes={sizes.gigabytes:g}"
    return None


def build_kind(name: str, sizes: AttentionSizes, length: int) -> Attention:
    """One layer's attention of configs/attention/NAME.yaml; a kind with a longest input is built for this one.
    Raises ConfigError."""
    plain = merge(compose("train", [f"attention={name}", "run_dir=unused"])["attention"], sizes.options.get(name, {}))
    kind = parse(Component[Attention], plain, f"attention.options.{name}")
    longest = getattr(kind.config, "max_length", None)
    if longest is not None and longest < length:
        kind = replace(kind, config=replace(kind.config, max_length=length))
    torch.manual_seed(1)
    try:
        attention = attention_stack(kind, num_layers=1, dim=sizes.dim, num_heads=sizes.num_heads)[0]
    except ConfigError as error:
        raise ConfigError(f"attention.kinds={name}: {error}") from None
    if attention.max_length is not None and attention.max_length < length:
        raise ConfigError(f"attention.kinds={name}: takes at most {attention.max_length} tokens, not {length}")
    return attention


def _measure_length(
    layers: Sequence[tuple[Curve, Layer]],
    length: int,
    sizes: AttentionSizes,
    repeats: int,
    device: torch.device,
    advance: Callable[[], None],
) -> None:
    """A first pass of each kind, for memory and warmth; then rounds in which the kinds take turns."""
    ready: list[tuple[Curve, Layer, float, int]] = []
    for curve, layer in layers:
        try:
            began = time.perf_counter()
            peak = peak_bytes(layer.work, device)
            seconds = max(time.perf_counter() - began, 1e-9)
        except torch.OutOfMemoryError:
            curve.left_out[length] = "out of memory"
            advance()
        else:
            ready.append((curve, layer, peak / MEGABYTE, max(1, min(repeats, int(sizes.seconds / seconds)))))
        layer.clear()
        advance()
    times: list[list[float]] = [[] for _ in ready]
    for number in range(max((rounds for *_, rounds in ready), default=0)):
        for passes, (_, layer, _, rounds) in zip(times, ready, strict=True):
            if number < rounds:
                passes.append(_milliseconds(layer, device, time.process_time if sizes.cpu_time else time.perf_counter))
    for passes, (curve, _, megabytes, rounds) in zip(times, ready, strict=True):
        curve.points.append(Point(length, statistics.median(passes), rounds, megabytes))
        advance()


def _milliseconds(layer: Layer, device: torch.device, clock: Callable[[], float]) -> float:
    synchronize(device)
    began = clock()
    layer.work()
    synchronize(device)
    milliseconds = 1000.0 * (clock() - began)
    layer.clear()
    return milliseconds
