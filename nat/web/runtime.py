"""ONNX Runtime Web, https://www.npmjs.com/package/onnxruntime-web (MIT): what a browser computes a graph with.

Three files of its package on npm, of one version and known by their hashes, whoever gives them: one thread with SIMD,
which needs no headers of the server that others do.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from nat.data.cache import cache_directory, cached, digest
from nat.errors import ConfigError, DataError

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web {VERSION}"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/{ARCHIVE}"
PATIENCE = 60.0  # seconds without an answer
FILES = {  # of the package's dist/: their names in an export, with an ending that every server knows, and SHA-256
    "ort.wasm.min.mjs": ("ort.js", "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
    "ort-wasm-simd-threaded.mjs": (
        "ort-wasm.js",
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    ),
    "ort-wasm-simd-threaded.wasm": (
        "ort-wasm.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
Runtime = dict[str, bytes]  # content by the name in an export


def find_runtime(given: str | None) -> Runtime:
    """given: the package's file, or a folder that it was unpacked to; None: the cache, or npm. Raises ConfigError where
    that is not the package, DataError where npm cannot be reached."""
    if given is None:
        name = f"web/{digest(VERSION, *(of_file for _, of_file in FILES.values()))}"
        return cached(cache_directory(None), name, fetch, read_cached)
    try:
        path = Path(given)
        return unpacked(path) if path.is_dir() else packed(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"web.runtime={given}: cannot be read ({error.strerror or error})") from None
    except (KeyError, tarfile.TarError, DataError) as error:
        raise ConfigError(f"web.runtime={given}: is not {PACKAGE} ({error})") from None


def fetch(folder: Path) -> None:
    """From npm into an empty folder. Raises DataError."""
    try:
        with urllib.request.urlopen(ADDRESS, timeout=PATIENCE) as answer:
            found = packed(answer.read())
    except (OSError, HTTPException, KeyError, tarfile.TarError, DataError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"format=web: {ADDRESS} cannot be had ({reason}); without a network, name the file by web.runtime={ARCHIVE}"
        ) from None
    for name, content in found.items():
        (folder / name).write_bytes(content)


def unpacked(folder: Path) -> Runtime:
    """Of a folder: the package, its dist/, or what lies around both."""
    inside = next((place for place in ("dist", "package/dist") if (folder / place).is_dir()), ".")
    return checked(lambda name: (folder / inside / name).read_bytes())


def packed(archive: bytes) -> Runtime:
    """Of the package's file."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as package:

        def read(name: str) -> bytes:
            member = package.extractfile(f"package/dist/{name}")
            return member.read() if member is not None else b""

        return checked(read)


def read_cached(folder: Path) -> Runtime:
    """What `fetch` wrote. Raises DataError where it was altered."""
    try:
        return checked(lambda name: (folder / FILES[name][0]).read_bytes())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}") from None


def checked(read: Callable[[str], bytes]) -> Runtime:
    """Of a way to read the package's files by their names. Raises DataError for a file that is not of this version."""
    found = {}
    for name, (own, expected) in FILES.items():
        content = read(name)
        if hashlib.sha256(content).hexdigest() != expected:
            raise DataError(f"{name} is another file")
        found[own] = content
    return found
