"""What --help prints."""

from __future__ import annotations

from nat.composition import config_directory

COMMON_HELP = """  --config-dir FOLDER  more YAML files, laid out as those of nat (model/, data/, experiment/ ...)
  --trust PACKAGE      components of this Python package may be built too; without it, those of nat alone
  --cfg                print the resolved configuration and stop; --cfg job|hydra|all [--resolve] as Hydra does
  --info [KIND]        print how the configuration is made: all, config, defaults, defaults-tree, plugins, searchpath
  --shell-completion install=bash  (also zsh, fish; in short -sc): eval "$(COMMAND -sc install=bash)"
"""


def help_text(name: str, help: str) -> str:
    """What the command says of itself, the groups' choices and its YAML, which explains every option."""
    directory = config_directory()
    text = (directory / f"{name}.yaml").read_text(encoding="utf-8")
    lines = ["\nchoices:"] if "defaults:" in text else []
    for group in sorted(p for p in directory.iterdir() if p.is_dir()):
        names = sorted(str(f.relative_to(group).with_suffix("")) for f in group.rglob("*.yaml"))
        if name == "train" or f"- {group.name}:" in text:
            lines.append(f"  {group.name}=" + "|".join(names))
    lines += [f"\noptions ({directory / name}.yaml):", text]
    return help + COMMON_HELP + "\n".join(lines)
