"""Tags of target languages: the first word of a source, <de>, says which language is to be written (Johnson et al.
2017, https://arxiv.org/abs/1611.04558, section 3). They are text, which a tokenizer learns as it learns any word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nat.config import nearest
from nat.data.filters import is_blank
from nat.errors import ConfigError, DataError

JOIN = "+"  # between the names of several target columns


def tag(language: str) -> str:
    return f"<{language}> "


def tagged(source: str, language: str) -> str:
    """A blank source stays as it is, as does one whose target's column bears several names: nat-distill wrote both, and
    the tag with them."""
    return source if is_blank(source) or JOIN in language else tag(language) + source


@dataclass(frozen=True)
class TargetTags:
    """Of a model whose sources begin with them. languages: that it writes. chosen: the one whose tag is put before
    every source; None: sources begin with theirs."""

    languages: tuple[str, ...]
    chosen: str | None = None

    @classmethod
    def of(cls, data: Any) -> TargetTags | None:
        """Of the data options that a run has saved; None where its sources have no tags."""
        if not (isinstance(data, Mapping) and data.get("target_tags")):
            return None
        return cls(tuple(str(data.get("target")).split(JOIN)))

    def to(self, language: str) -> TargetTags:
        """Raises ConfigError for a language that the model does not write."""
        if language not in self.languages:
            raise ConfigError(f"target={language}: the model does not write it, {nearest(language, self.languages)}")
        return TargetTags(self.languages, language)

    def begin(self, sources: Sequence[str], name: str, lines: Sequence[int]) -> list[str]:
        """The sources with their tags. name, lines: of the text, for messages. Raises DataError for one without a tag
        where no language is chosen."""
        if self.chosen is not None:
            return [tagged(source, self.chosen) for source in sources]
        known = tuple(map(tag, self.languages))
        for number, source in zip(lines, sources, strict=True):
            if not (is_blank(source) or source.startswith(known)):
                raise DataError(
                    f"{name}, line {number}: does not say which language is wanted; name it, for example "
                    f"target={self.languages[0]} ({', '.join(self.languages)}), or begin the line with "
                    f"{tag(self.languages[0]).strip()}"
                )
        return list(sources)
