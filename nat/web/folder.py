"""An export as a page: what lies beside its graph so that a browser translates with it, offline.

EXPORT/index.html        the page, for any web server: python -m http.server -d EXPORT
       page/             its style sheet and JavaScript; page/backend.js is what translates
       model.json        what the page is told of the model
       tokenizer/*.json  pieces and scores, see `nat.web.pieces`
       runtime/          ONNX Runtime Web, and its licence
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nat.data.tags import JOIN
from nat.data.tokenizer import PieceTokenizer
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.decoding.translator import Translator
from nat.engines.onnx import MODEL
from nat.files import to_json, write_json
from nat.web.files import LOCAL, page_files
from nat.web.pieces import piece_data
from nat.web.runtime import find_runtime

LICENCE = Path(__file__).with_name("runtime-licence.txt")


class Page:
    """What is needed before an export is made. runtime: as for `find_runtime`. Raises ConfigError or DataError where
    the page cannot do what the run's tokenizers do, and where there is no runtime."""

    def __init__(self, translator: Translator, runtime: str | None) -> None:
        self.translator, tokenizers = translator, translator.tokenizers
        sides = {"source": tokenizers.source} | ({} if tokenizers.shared else {"target": tokenizers.target})
        self.tokenizers: dict[str, Any] = {}
        for side, tokenizer in sides.items():
            assert isinstance(tokenizer, PieceTokenizer)  # points are refused before
            self.tokenizers[f"tokenizer/{side}.json"] = piece_data(tokenizer.model, f"the {side} tokenizer")
        self.runtime = find_runtime(runtime)

    def write(self, folder: Path, described: Mapping[str, Any]) -> None:
        """Into an export. described: by its manifest."""
        files = page_files(LOCAL) | {f"runtime/{name}": content for name, content in self.runtime.items()}
        files["runtime/LICENSE.txt"] = LICENCE.read_bytes()
        for name, data in self.tokenizers.items():
            files[name] = to_json(data).encode()
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        write_json(folder / "model.json", self.about(described, (folder / MODEL).stat().st_size))

    def about(self, described: Mapping[str, Any], graph_bytes: int) -> dict[str, Any]:
        names = list(self.tokenizers)
        kept = ("model", "precision", "num_parameters", "max_source_tokens", "collapse")
        data = self.translator.config["data"]
        return {
            "name": self.translator.folder.resolve().name,
            "source": data["source"],
            "targets": data["target"].split(JOIN),
            "tags": bool(data.get("target_tags")),
            **{name: described[name] for name in kept},
            "graph_bytes": graph_bytes,
            "tokenizers": [names[0], names[-1]],
            "symbols": {"unk": int(Symbol.UNK), "blank": int(Symbol.BLANK), "first_piece": NUM_SYMBOLS},
        }
