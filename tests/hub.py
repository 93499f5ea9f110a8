"""A hub of one repository, as huggingface_hub asks it, on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nat

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves a folder as the repository `name`, at main and at its commit. asked: paths of all requests."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.asked = name, list[str]()
        self.files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = handler.path.partition("?")[0]
        self.asked.append(path)
        headers, content = {"Content-Type": "application/json"}, b""
        if path in (f"/api/models/{self.name}", *(f"/api/models/{self.name}/revision/{r}" for r in ("main", COMMIT))):
            content = json.dumps(
                {"id": self.name, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            ).encode()
        elif path.startswith(f"/api/models/{self.name}/tree/"):
            content = json.dumps([self.entry(name) for name in self.files]).encode()
        elif path.startswith(f"/{self.name}/resolve/"):
            name = path.removeprefix(f"/{self.name}/resolve/").partition("/")[2]
            if name in self.files:
                content = self.files[name].read_bytes()
                tag = hashlib.sha1(content).hexdigest()
                headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
        if not content:
            handler.send_response(404)
            handler.send_header("X-Error-Code", "RepoNotFound")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            handler.send_header(key, value)
        handler.end_headers()
        if with_body:
            handler.wfile.write(content)

    def decode(self, run_dir: str, sentence: str, *, home: Path) -> subprocess.CompletedProcess[str]:
        """nat-decode in a process of its own, which learns of this hub from its environment. home: of the cache."""
        return subprocess.run(
            [sys.executable, "-m", "nat.cli.decode", f"run_dir={run_dir}", "source=-"],
            input=f"{sentence}\n",
            text=True,
            capture_output=True,
            check=False,
            timeout=200,
            env=os.environ
            | {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
            | {"PYTHONPATH": str(Path(nat.__file__).parents[1])},
        )

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name].read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
