"""The configuration of a command: the YAML files of `configs/` and the user's own under the words of the command line.

Hydra composes; this is the only module that knows it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from nat.config import load_yaml, nearest, why_unreadable
from nat.errors import ConfigError, UserError

# Beside its own errors, where a word or a file is odd.
HYDRA_RAISES = (ValueError, RecursionError, OSError, AttributeError, TypeError, KeyError, AssertionError)
MISSING = "???"  # stands in a YAML where the user must give a value; left out, so that `parse` asks for it


def config_directory() -> Path:
    """Where the YAML files lie: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def compose(name: str, words: Sequence[str], *, extra_directory: Path | None = None) -> dict[str, Any]:
    """The resolved plain data of `configs/NAME.yaml` under overrides, the words of a command line.

    A value override of a key that no YAML lists is let through here and refused by `parse`, which can name
    the nearest option. A text that begins with ~/ is a path in the home folder. Raises ConfigError.
    """
    with hydra_session(words, extra_directory) as (_, overrides):
        return _composed(name, overrides)


def _composed(name: str, overrides: list[str]) -> dict[str, Any]:
    """What Hydra makes of overrides in its grammar."""
    from hydra import compose as hydra_compose

    plain = OmegaConf.to_container(hydra_compose(name, overrides), resolve=True)
    recipe = _where_known(plain)
    if recipe:  # before the command line, whose overrides come last
        plain = OmegaConf.to_container(hydra_compose(name, [*recipe, *overrides]), resolve=True)
    composed = _finished(plain)
    assert isinstance(composed, dict)
    return composed


@contextlib.contextmanager
def hydra_session(
    words: Sequence[str], extra_directory: Path | None, *, is_sweep: bool = False
) -> Iterator[tuple[Any, list[str]]]:
    """Hydra, ready to compose, and `words` in its grammar. Raises ConfigError for all that it objects to."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    directory = config_directory()
    if extra_directory is not None and not extra_directory.is_dir():
        raise ConfigError(f"config directory {extra_directory}: there is no such folder")
    search = [directory] if extra_directory is None else [directory, extra_directory]
    groups = {str(p.relative_to(d)) for d in search for p in d.rglob("*") if p.is_dir()}
    running = GlobalHydra.instance()
    outer = running.hydra  # of a sweep, whose job composes here
    running.clear()
    try:
        with _in_one_line(extra_directory):
            overrides = [as_override(word, groups, is_sweep=is_sweep) for word in words]
            if extra_directory is not None:
                overrides.append(f"hydra.searchpath=[{_quoted(f'file://{extra_directory.resolve()}')}]")
            with initialize_config_dir(str(directory.resolve()), version_base="1.3"):
                yield running.hydra, overrides
    finally:
        running.hydra = outer


@contextlib.contextmanager
def _in_one_line(extra_directory: Path | None) -> Iterator[None]:
    """What Hydra, OmegaConf and YAML raise as a ConfigError, with the file of the user that is to blame."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except BrokenPipeError:
        raise
    except yaml.MarkedYAMLError as error:
        file = "" if error.problem_mark is None else error.problem_mark.name
        raise ConfigError(f"{file}{why_unreadable(error)}") from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, *HYDRA_RAISES) as error:
        if extra_directory is not None and isinstance(error, (UnicodeDecodeError, RecursionError)):
            for path in sorted(extra_directory.rglob("*.yaml")):
                load_yaml(path)  # raises for the one that is to blame
        raise ConfigError(_one_line(error)) from None


def _finished(node: Any) -> Any:
    """Without the keys whose value the user must give, and those of `_where_known`; ~ is the home folder."""
    if isinstance(node, Mapping):
        return {
            str(key): _finished(value) for key, value in node.items() if value != MISSING and not str(key).endswith("?")
        }
    if isinstance(node, list):
        return [_finished(item) for item in node]
    return os.path.expanduser(node) if isinstance(node, str) and node.startswith("~") else node


def _where_known(node: Any, path: str = "") -> list[str]:
    """The overrides that `name?: value` in a recipe means: `name: value` where what the recipe is for has `name`. So
    one recipe serves methods with a decoder and without."""
    overrides = []
    for key, value in node.items() if isinstance(node, Mapping) else ():
        name = f"{path}{key}"
        if not name.endswith("?"):
            overrides += _where_known(value, f"{name}.")
        elif str(key)[:-1] in node:
            overrides += [f"++{leaf}={json.dumps(plain)}" for leaf, plain in _leaves(value, name[:-1])]
    return overrides


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{path}.{key}")


def _one_line(error: Exception) -> str:
    text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    choice = re.search(r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+(.*?)(?:\nConfig|$)", text, re.S)
    if choice:
        group, _, name = choice.group(1).rpartition("/")
        known = choice.group(3).split()
        text = f"{group}={name}: there is no such choice; {nearest(name, known)}; choices: {', '.join(known)}"
    return " ".join(text.split())


# --- What people know of Hydra ---------------------------------------------------------------------


def sweep(name: str, words: Sequence[str], job: Callable[[dict[str, Any]], Any], extra_directory: Path | None) -> None:
    """`job` with the configuration of each combination of the values in `words`, model=ctc,vanilla for example, by
    Hydra's sweeper and launcher; the sweeper is given what it returns. The run folder of each is named by its
    overrides: RUN_DIR/model=ctc,seed=1. Raises ConfigError, and UserError where a job failed."""
    fixed = [match[2] for word in words if (match := OVERRIDE.fullmatch(word)) and not is_swept(word)]
    defaults = [
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        "hydra.output_subdir=null",
        "hydra.sweep.dir='${nat_path:${run_dir}}'",
        "hydra.sweep.subdir='${nat_run_name:${hydra.job.override_dirname}}'",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]",
    ]
    task = functools.partial(run_job, name, job, extra_directory)
    with hydra_session(words, extra_directory, is_sweep=True) as (hydra, overrides):
        hydra.multirun(name, task, [*defaults, *overrides])


def run_job(name: str, job: Callable[[dict[str, Any]], Any], extra_directory: Path | None, _: object) -> Any:
    """One combination of a sweep, perhaps in a process of a launcher."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    folder = os.path.join(hydra.sweep.dir, hydra.sweep.subdir)
    print(f"nat-{name}: {folder}", file=sys.stderr, flush=True)
    try:
        with hydra_session([f"run_dir={folder}"], extra_directory) as (_, own):
            config = _composed(name, [*hydra.overrides.task, *own])
        return job(config)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"nat-{name}: {line}", file=sys.stderr, flush=True)
        raise UserError(f"{folder}: failed, see above") from None
    except Exception as error:
        raise RuntimeError(folder) from error  # is no mistake of the configuration


def run_name(overrides: str) -> str:
    """++seed=1,model=ctc -> model=ctc,seed=1, as the name of one folder, however long."""
    parts = sorted(part.lstrip("+") for part in _elements(overrides) or [overrides])
    text = re.sub(r"['\"\\]", "", ",".join(parts)).replace(os.sep, "_")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return text if len(text.encode()) <= 200 else f"{text.encode()[:190].decode(errors='ignore')}-{digest}"


OmegaConf.register_new_resolver("nat_path", os.path.expanduser)
OmegaConf.register_new_resolver("nat_run_name", run_name)


def print_config(name: str, words: Sequence[str], extra_directory: Path | None, *, kind: str, resolve: bool) -> None:
    """Hydra's --cfg: what it composes as job, hydra or all, with interpolations unless they are to be resolved."""
    with hydra_session(words, extra_directory) as (hydra, overrides):
        hydra.show_cfg(name, overrides, cfg_type=kind, package=None, resolve=resolve)


def print_info(name: str, words: Sequence[str], extra_directory: Path | None, *, kind: str) -> None:
    """Hydra's --info: all, config, defaults, defaults-tree, plugins or searchpath."""
    from hydra.types import RunMode

    root, logger = logging.getLogger(), logging.getLogger("hydra")
    handlers, levels = root.handlers[:], (root.level, logger.level)
    with hydra_session(words, extra_directory) as (hydra, overrides):
        hydra.compose_config(name, overrides, run_mode=RunMode.RUN)  # a mistake is told in our way
        logger.setLevel(logging.NOTSET)
        try:
            hydra.show_info(kind, name, overrides)  # by log messages to standard output
        finally:
            root.handlers[:] = handlers
            root.setLevel(levels[0])
            logger.setLevel(levels[1])


def complete(name: str, words: Sequence[str]) -> None:
    """Hydra's shell completion: `install=bash`, `uninstall=bash`, and `query=bash` of the line in COMP_LINE."""
    is_query = any(word.startswith("query=") for word in words)
    options = r"--(config-dir|trust)[ =]\S+ "  # Hydra would not take them
    os.environ["COMP_LINE"] = re.sub(options, "", os.environ.get("COMP_LINE", ""))
    with (
        contextlib.suppress(*[ConfigError, SystemExit] if is_query else []),  # of a line that is not yet one
        contextlib.redirect_stderr(io.StringIO()),
        hydra_session([], None) as (hydra, _),
    ):
        hydra.shell_completion(name, list(words))


# --- The words of a command line in Hydra's grammar ------------------------------------------------

OVERRIDE = re.compile(r"(\+{0,2})([\w./@-]+)=(.*)", re.DOTALL)
PLAIN = re.compile(r"[\w /+.$%*@?|:-]*", re.ASCII)  # what Hydra takes as text without quotes
QUOTED = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?=[],:})]|$)""", re.DOTALL)
FUNCTION = re.compile(r"\s*[a-z]+\(.*\)\s*", re.DOTALL)  # of a sweep: range(1,4), choice(a,b)
CLOSING = {"[": "]", "{": "}", "(": ")"}


def as_override(word: str, groups: set[str], *, is_sweep: bool = False) -> str:
    """The word as Hydra wants it: `++` before options, quotes around text, so that a value may hold any character. In a
    sweep the values between commas are several. Raises ConfigError."""
    match = OVERRIDE.fullmatch(word)
    if not match:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word!r} is not an override: write key=value, for example trainer.max_updates=100")
        return word
    plus, key, value = match.groups()
    if not value.strip():
        raise ConfigError(f"{key}=: a value is needed")
    if key.startswith("hydra"):
        check_hydra_key(word, is_sweep=is_sweep)
    elif not plus and key.split("@")[0] not in groups:
        plus = "++"
    if is_sweep and is_swept(word):
        parts = _elements(value, "[{(") or [value]
        return f"{plus}{key}={','.join(p if FUNCTION.fullmatch(p) else _quoted(p.strip()) for p in parts)}"
    return f"{plus}{key}={_quoted(value)}"


def is_swept(word: str) -> bool:
    """Whether a word of a sweep gives several values."""
    value = word.partition("=")[2]
    return len(_elements(value, "[{(") or ()) > 1 or FUNCTION.fullmatch(value) is not None


def check_hydra_key(word: str, *, is_sweep: bool) -> None:
    """Hydra's own options are for sweeps. Raises ConfigError for one without effect."""
    if word.startswith(("hydra.run", "hydra.mode")) or not (is_sweep or word.startswith("hydra.searchpath")):
        raise ConfigError(f"{word}: has no effect; run_dir=FOLDER names a run's folder, --multirun starts a sweep")


def _quoted(value: str) -> str:
    """The value, with quotes around every text that Hydra would not take as it stands, in lists and mappings too. What
    is in quotes, or holds an interpolation, is left as it is."""
    text = value.strip()
    if text[:1] in ("[", "{") and CLOSING[text[0]] == text[-1] and (parts := _elements(text[1:-1])) is not None:
        if text[0] == "[":
            return f"[{','.join(_quoted(part.strip()) for part in parts)}]"
        pairs = [part.partition(":") for part in parts]
        if all(colon for _, colon, _ in pairs):
            return f"{{{','.join(f'{key}:{_quoted(item.strip())}' for key, _, item in pairs)}}}"
    if QUOTED.fullmatch(text) or "${" in text or PLAIN.fullmatch(text):
        return value
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value, Quote.single).with_quotes()


def _elements(text: str, brackets: str = "[{") -> list[str] | None:
    """What stands between the commas that are in no quotes and no brackets; None where brackets do not close."""
    parts, open_brackets, start, place = [], [], 0, 0
    while place < len(text):
        at_start = text[start:place].rstrip()[-1:] in ("", "[", "{", ",", ":", "=")
        if at_start and (quoted := QUOTED.match(text, place)):
            place = quoted.end()
            continue
        sign = text[place]
        if sign in brackets:
            open_brackets.append(CLOSING[sign])
        elif sign in [CLOSING[bracket] for bracket in brackets]:
            if not open_brackets or open_brackets.pop() != sign:
                return None
        elif sign == "," and not open_brackets:
            parts.append(text[start:place])
            start = place + 1
        place += 1
    parts.append(text[start:])
    return None if open_brackets else parts if text.strip() else []
