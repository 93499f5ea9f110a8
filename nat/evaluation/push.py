"""nat-push's work: a run or an export, with a model card, becomes a repository of the Hugging Face hub.

Card: https://huggingface.co/docs/hub/model-cards; its figures are those of a report of nat-decode.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nat
from nat.config import load_yaml, option, save_yaml, to_yaml
from nat.engines.manifest import KEY, is_export, read_manifest, write_manifest
from nat.errors import ConfigError, DataError
from nat.files import read_object
from nat.runs.locations import HUB, reason_of, run_folder
from nat.runs.portable import portable_options, write_portable

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
SCORES = {  # of a report: what the card calls them, and the key of their signature
    "bleu": ("BLEU", "bleu_signature"),
    "chrf": ("chrF", "chrf_signature"),
}


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Everything that `configs/push.yaml` holds."""

    run_dir: str = option(help="run folder or export; also embedded:NAME")
    repo: str = option(help="USER/NAME on the hub; made where it is not there")
    private: bool = option(False, "a new repository is seen by nobody else")
    languages: list[str] = option([], "codes of the source language and of what is written, [en, de]; []: not told")
    licence: str | None = option(None, "of the weights, as the hub names it: apache-2.0, cc-by-4.0 ...")
    report: str | None = option(
        None, "JSON that nat-decode wrote beside its translations: scores and speed of the card"
    )
    message: str = option("A model of nat", "of the commit")
    output: str | None = option(None, "write the folder here instead of pushing it, to be looked at")

    def __post_init__(self) -> None:
        if not REPOSITORY.fullmatch(self.repo):
            raise ConfigError(f"repo={self.repo}: USER/NAME is needed")
        if len(self.languages) == 1:
            raise ConfigError(f"languages={self.languages}: a source and a target language are needed, [en, de]")


def push(config: PushConfig) -> str:
    """Where the model is afterwards, for people. Raises ConfigError or DataError before anything is sent where the
    model cannot be opened or the report is none, DataError where the hub refuses."""
    report = {} if config.report is None else read_object(Path(config.report))
    if config.report is not None and "bleu" not in report:
        raise DataError(f"report={config.report}: no report of nat-decode (it has no bleu)")
    folder = run_folder(config.run_dir)
    if config.output is not None:
        if Path(config.output).exists():
            raise ConfigError(f"output={config.output}: is there already, choose another folder")
        write_repository(folder, Path(config.output), config, report)
        return config.output
    with tempfile.TemporaryDirectory(prefix="nat-push-") as place:
        prepared = Path(place) / "model"
        write_repository(folder, prepared, config, report)
        return send(prepared, config)


def send(folder: Path, config: PushConfig) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(config.repo, private=config.private, exist_ok=True)
        api.upload_folder(repo_id=config.repo, folder_path=folder, commit_message=config.message)
    except Exception as error:  # of many kinds, those of the network among them
        raise DataError(f"repo={config.repo}: the hub does not take this model ({reason_of(error)})") from None
    return f"{HUB}{config.repo}"


def write_repository(source: Path, folder: Path, config: PushConfig, report: dict[str, Any]) -> None:
    """All files of the repository."""
    if is_export(source):
        copy_export(source, folder, config)
    else:
        write_portable(source, folder, name=f"{HUB}{config.repo}")
    (folder / "README.md").write_text(card(folder, config, report), encoding="utf-8")


def copy_export(source: Path, folder: Path, config: PushConfig) -> None:
    """Without paths of this machine, and with the hashes of what it is then."""
    content = dict(read_manifest(source).content)  # every file is as it was written
    del content[KEY], content["files"]
    shutil.copytree(source, folder)
    save_yaml(portable_options(load_yaml(source / "config.yaml"), f"{HUB}{config.repo}"), folder / "config.yaml")
    weights = str(content["run"].get("weights")).replace(str(content["run"].get("folder")), ".")
    write_manifest(folder, content | {"run": content["run"] | {"folder": config.repo, "weights": weights}})


def card(folder: Path, config: PushConfig, report: dict[str, Any]) -> str:
    options = load_yaml(folder / "config.yaml")
    model = str(options["model"]["_target_"]).rpartition(".")[2]
    name = config.repo.partition("/")[2]
    pair = f", {config.languages[0]} to {', '.join(config.languages[1:])}" if config.languages else ""
    return f"""---
{to_yaml(metadata(config, report)).strip()}
---

# {name}

A {model} model of nat, version {nat.__version__}{pair}.

```python
import nat

print(nat.load("{HUB}{config.repo}").translate(["..."]))
```

`nat-decode run_dir={HUB}{config.repo} source=FILE` translates a file, `nat-serve` answers over HTTP. The files are
plain data: weights as safetensors or a graph, a tokenizer, `config.yaml` with every option of the training.

## Scores and speed

{figures(report)}

## Data

{described(options.get("data") or {})}

## Licence

{config.licence or "Not told by who pushed it."}

## How to cite

Name nat, its version ({nat.__version__}) and this repository; the paper of the method is named in nat's documentation.
"""


def metadata(config: PushConfig, report: dict[str, Any]) -> dict[str, Any]:
    """What the hub reads of a card."""
    found: dict[str, Any] = {"library_name": "nat", "pipeline_tag": "translation"}
    found["tags"] = ["nat", "non-autoregressive-translation"]
    if config.languages:
        found["language"] = list(dict.fromkeys(config.languages))
    if config.licence is not None:
        found["license"] = config.licence
    if report:
        found["metrics"] = ["sacrebleu", "chrf"]
    return found


def figures(report: dict[str, Any]) -> str:
    if not report:
        return "Not measured: `nat-decode output=FILE` writes a report that `nat-push report=FILE.json` shows here."
    lines = [f"On {report.get('num_sentences')} sentences ({report.get('text')}), {report.get('date')}:", ""]
    for key, (label, signature) in SCORES.items():
        if report.get(key) is not None:
            lines.append(f"- {label} {report[key]:.2f} (`{report.get(signature)}`)")
    alone, together = report.get("ms_per_sentence_p50"), report.get("sentences_per_second")
    if alone is not None and together is not None:
        where = f"{report.get('machine')}, {report.get('num_threads')} threads, {report.get('device')}"
        engine = f"{report.get('engine')} {report.get('precision')}"
        lines.append(
            f"- a sentence alone {alone:.1f} ms (median), {together:.0f} sentences/s in batches of "
            f"{report.get('batch_size')}; {engine}, {where}"
        )
    return "\n".join(lines)


def described(data: dict[str, Any]) -> str:
    lines = [f"- {split}: `{data[split]}`" for split in ("train", "valid", "test") if data.get(split)]
    return "\n".join(lines) or "Not told by its configuration."
