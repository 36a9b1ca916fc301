# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced export`: a model → a verified folder for another runtime."""

import os
from collections.abc import Sequence
from typing import Annotated, Any

from ..input_list import STANDARD_INPUT, find_inputs
from . import options
from .completion import complete_export_format
from .endings import one_line_errors
from .errors import FAILED, CliError
from .model import choose_model, quieten, shown_name
from .options import INPUT, OUTPUT, option
from .terminal import put, say


@one_line_errors
def export(
    model: options.Model = None,
    format: Annotated[
        str | None,
        option(
            OUTPUT,
            "--format",
            "-f",
            metavar="FORMAT",
            help="onnx, openvino, sherpa-onnx, torch, or web (a page that tags in the browser). Required.",
            autocompletion=complete_export_format,
        ),
    ] = None,
    output: Annotated[
        str | None,
        option(OUTPUT, "--output", "-o", metavar="DIR", help="The new folder, written after verification. Required."),
    ] = None,
    compute_type: Annotated[
        str | None,
        option(
            OUTPUT,
            metavar="TYPE",
            help="float32 (default), float16 (stored in half the size, computed in float32) or int8 (not torch).",
        ),
    ] = None,
    input: Annotated[
        str | None,
        option(
            OUTPUT,
            metavar="waveform|mel",
            help="Input of the exported model: a waveform (default; not sherpa-onnx), or log-mel spectrograms.",
        ),
    ] = None,
    audio: Annotated[
        list[str] | None,
        option(
            INPUT,
            metavar="PATH",
            help="File or folder of recordings for verification and int8 calibration; by default bundled and synthetic"
            " sounds. Can be repeated.",
        ),
    ] = None,
    overwrite: Annotated[bool, option(OUTPUT, "--overwrite", help="Replace the export in DIR.")] = False,
    runtime: Annotated[
        str | None,
        option(
            OUTPUT,
            metavar="DIR",
            help="web: node_modules folder with ONNX Runtime Web and Mediabunny; by default they are downloaded once"
            " from the npm registry (35 MB).",
        ),
    ] = None,
) -> None:
    """Export a model to ONNX, OpenVINO, sherpa-onnx, torch or web.

    The exported model runs without ced_model: with the runtime of its format, or with web as a page in the browser. It
    is written to DIR with labels.csv, metadata.json and a README.md with example code.

    Each export is verified against the original model, on clips of various lengths. If probabilities differ by more
    than 0.0001 (float16: 0.01, int8: 0.25), the export fails and nothing is written.
    """
    chosen = choose_model(model)
    from ..exporting.formats import FORMATS, choose_format

    if format is None:
        raise CliError(f"missing --format: choose {', '.join(FORMATS)}")
    if not output:
        raise CliError("missing --output DIR: where to write the export")
    choose_format(format, input, compute_type)  # before any work
    recordings = _find_recordings(audio or ())
    quieten()
    from ..audio import AudioError
    from ..engines import EngineError
    from ..exporting import VerificationError, export_model
    from ..exporting.export import check_output
    from ..exporting.web_runtime import choose_runtime
    from ..hub import ModelNotFoundError
    from ..safetensors_index import ModelFolderError

    check_output(output, overwrite)
    choose_runtime(format, runtime)
    say(f"exporting {shown_name(chosen)} to {format} and verifying ...")
    try:
        report = export_model(
            chosen,
            output,
            format=format,
            input=input,
            compute_type=compute_type,
            recordings=recordings,
            overwrite=overwrite,
            runtime=runtime,
        )
    except AudioError as error:
        raise CliError(f"--audio: {error}", FAILED) from error
    except (ModelFolderError, ModelNotFoundError) as error:
        raise CliError(f"{shown_name(chosen)} cannot be loaded: {error}", FAILED) from error
    except (EngineError, VerificationError) as error:
        raise CliError(f"the export was discarded: {error}", FAILED) from error
    say("clips        largest difference in probability from the float32 model")
    say(*(f"{check.batch_size} of {check.seconds:5.2f} s  {check.probabilities:.1e}" for check in report.checks))
    if (sherpa := report.sherpa) is not None:
        say(
            f"sherpa-onnx with its own features: {sherpa.mean_probability:.1e} on average, {sherpa.probability:.1e} at"
            f" most; same best class in {sherpa.top_1} of {sherpa.recordings} recordings"
        )
    if compute_type == "int8" and not report.is_calibrated:
        say("calibrated on synthetic sounds: for better accuracy give recordings with --audio")
    use = "explains how to serve the page" if format == "web" else "has example code"
    say(f"{report.file.name}: {report.num_bytes / 1e6:.1f} MB; README.md {use}")
    put(output)


def _find_recordings(audio: Sequence[str]) -> list[Any]:
    if not audio:
        return []
    if STANDARD_INPUT in audio:
        raise CliError("--audio -: expected files and folders, not standard input")
    items = find_inputs(audio)
    for item in items:
        error = item.error or (None if os.path.exists(item.source) else "there is no such file or folder")
        if error is not None:
            raise CliError(f"--audio {item.name!r}: {error}")
    return [item.source for item in items]
