"""The page's own files, as they are served: HTML, style sheet and JavaScript, without a framework. Knows no torch."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).with_name("page")
LOCAL, SERVER = "local.js", "server.js"  # what translates: a model of the folder, or a server's API
BACKEND = "backend.js"  # the name of either on a page


def page_files(backend: str) -> dict[str, bytes]:
    """By their addresses on the page. backend: LOCAL or SERVER."""
    files = {f"page/{path.name}": path.read_bytes() for path in sorted(PAGE.iterdir()) if path.is_file()}
    files[f"page/{BACKEND}"] = files[f"page/{backend}"]
    for name in (LOCAL, SERVER):
        del files[f"page/{name}"]
    return {"index.html": files.pop("page/index.html"), **files}
