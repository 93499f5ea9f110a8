"""nat-export: a run as a folder that an inference engine computes."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-export: write a run as a folder that an inference engine computes, in float32 or in 8-bit integers.

usage: nat-export run_dir=PATH output=FOLDER [format=onnx|ctranslate2|web] [precision=int8|fp32] OVERRIDES

  nat-export run_dir=runs/ctc output=exports/ctc                              one graph; translate.py needs no nat
  nat-export run_dir=runs/mask_predict output=exports/mp precision=fp32       graphs around the loop of passes
  nat-export run_dir=runs/teacher output=exports/teacher format=ctranslate2
  nat-export run_dir=runs/ctc output=exports/page format=web                  a page for any web server

  python exports/ctc/translate.py < mine.en                   needs onnxruntime, sentencepiece and numpy alone
  nat-decode run_dir=exports/ctc source=mine.en               or wherever a run is read that translates

onnx takes CTC, vanilla, CRF, fertility and DAG (one graph), Mask-Predict, diffusion, iterative refinement and the
Imputer (encoder, decoder and output layer); ctranslate2 the autoregressive teacher; web what becomes one graph, but
CRF. The export translates the validation text beside the run: manifest.json says how many translations are the same,
and the BLEU of both. Needs nat-translation[onnx] or nat-translation[ctranslate2].
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.evaluation.export import ExportConfig, export, outcome

    settings = parse(ExportConfig, config)
    print(f"done: {settings.output}: {outcome(settings.output, export(settings))}")
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("export", HELP, work), arguments)


if __name__ == "__main__":
    main()
