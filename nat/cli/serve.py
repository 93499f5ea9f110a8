"""nat-serve: models behind HTTP."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-serve: translate over HTTP, with the API that clients of LibreTranslate speak.

usage: nat-serve models=[SOURCE-TARGET=FOLDER,...] OVERRIDES

  nat-serve models=[en-de=embedded:en-de]
  nat-serve models=[en-de=exports/student] host=0.0.0.0 port=5000
  curl localhost:5000/translate -d q='Save your spreadsheet.' -d source=en -d target=de; or open http://localhost:5000

A folder is a run, an export, or embedded:NAME; an export of one ONNX graph is served without torch. Lines that arrive
together are translated together, and no answer depends on that. A request may also say passes (decoder calls, for
methods of several) and terms (words of the target that must be in it, for methods that heed them). SIGTERM and SIGINT
stop it once all that was accepted is answered.
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.serving.config import ServeConfig
    from nat.serving.run import serve

    models = config.get("models")
    serve(parse(ServeConfig, config | ({"models": [models]} if isinstance(models, str) else {})))
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("serve", HELP, work), arguments)


if __name__ == "__main__":
    main()
