"""nat-serve's work: open the models, listen, answer what was accepted, stop."""

from __future__ import annotations

import signal
import socket
import sys
from importlib.util import find_spec

from nat.errors import ConfigError
from nat.serving.config import ServeConfig
from nat.serving.models import LineTranslator, open_translator

PACKAGES = ("starlette", "uvicorn", "prometheus_client")


def serve(config: ServeConfig) -> None:
    """Until a signal: then nothing more is accepted, and what was is answered. Raises ConfigError or DataError before
    anything is listened on where a model cannot be opened, ConfigError where the address cannot be had."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigError(f"nat-serve: the package {missing[0]} is missing; pip install 'nat-translation[serve]'")
    import uvicorn

    from nat.serving.app import Server

    translators: dict[tuple[str, str], LineTranslator] = {}
    opened: dict[str, LineTranslator] = {}
    for model in config.served:
        if model.folder not in opened:
            opened[model.folder] = open_translator(model.folder, num_threads=config.num_threads)
        try:
            translators[model.source, model.target] = opened[model.folder].to_language(model.target)
        except ConfigError as error:
            raise ConfigError(f"models={model.name}={model.folder}: {error}") from None
    listening = listen(config)
    names = ", ".join(model.name for model in config.served)
    print(f"http://{config.host}:{listening.getsockname()[1]} translates {names}", file=sys.stderr, flush=True)
    options = uvicorn.Config(
        Server(config, translators).app(),
        log_level="warning",
        access_log=False,
        limit_concurrency=config.max_connections,
        timeout_keep_alive=30,
        lifespan="on",
        server_header=False,
    )
    server = uvicorn.Server(options)

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):  # a stop that was asked for is no fault: uvicorn would die of it
        signal.signal(number, stop)
    server.run(sockets=[listening])


def listen(config: ServeConfig) -> socket.socket:
    """Raises ConfigError."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        *kind, _, address = found[0]
        listening = socket.socket(*kind)  # asyncio sends small answers at once where the protocol is named
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"host={config.host} port={config.port}: cannot be listened on ({reason})") from None
    return listening
