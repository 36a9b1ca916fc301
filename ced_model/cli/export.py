# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced export`: a model for another program, verified."""

import os
from collections.abc import Sequence
from typing import Any

from ..input_list import STANDARD_INPUT, find_inputs
from .errors import FAILED, CliError
from .model import choose_model, quieten, shown_name
from .terminal import put, say


def export(
    *,
    model: str | None,
    format: str | None,
    output: str | None,
    compute_type: str | None = None,
    input: str | None = None,
    audio: Sequence[str] = (),
    overwrite: bool = False,
    runtime: str | None = None,
) -> None:
    """
    Exports a model, prints how far it is from the model in float32, and the folder.

    Raises:
        CliError: for wrong usage, and for an export that does not compute what the model does.
    """
    chosen = choose_model(model)
    from ..exporting.formats import FORMATS, choose_format

    if format is None:
        raise CliError(f"choose a format with --format: {', '.join(FORMATS)}")
    if not output:
        raise CliError("name the folder to make with --output")
    choose_format(format, input, compute_type)  # wrong usage comes before any work
    recordings = _find_recordings(audio)
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
    say("clips        largest difference in probability from the model in float32")
    say(*(f"{check.batch_size} of {check.seconds:5.2f} s  {check.probabilities:.1e}" for check in report.checks))
    if (sherpa := report.sherpa) is not None:
        say(
            f"sherpa-onnx with its own features: {sherpa.mean_probability:.1e} on average, at most"
            f" {sherpa.probability:.1e}; same best class in {sherpa.top_1} of {sherpa.recordings} recordings"
        )
    if compute_type == "int8" and not report.is_calibrated:
        say("calibrated on synthetic sounds: give recordings with --audio for a better int8")
    use = "describes how to serve the page" if format == "web" else "has code that runs it"
    say(f"{report.file.name}: {report.num_bytes / 1e6:.1f} MB; README.md {use}")
    put(output)


def _find_recordings(audio: Sequence[str]) -> list[Any]:
    if not audio:
        return []
    if STANDARD_INPUT in audio:
        raise CliError("--audio takes files and folders, not standard input")
    items = find_inputs(audio)
    for item in items:
        error = item.error or (None if os.path.exists(item.source) else "no such file or folder")
        if error is not None:
            raise CliError(f"--audio {item.name!r}: {error}")
    return [item.source for item in items]
