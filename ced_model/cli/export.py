# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced export`: a model for another runtime, verified."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..input_list import STANDARD_INPUT, find_inputs
from .errors import FAILED, CliError
from .model import choose_model, load_tagger
from .terminal import put, say

if TYPE_CHECKING:
    from ..exporting import ExportReport


@dataclass(frozen=True)
class ExportOptions:
    """The options of `ced export`, named as on the command line; None where they were not given."""

    model: str | None = None
    format: str | None = None
    output: str | None = None
    quantize: str | None = None
    input: str | None = None
    audio: tuple[str, ...] = ()
    overwrite: bool = False


def export(options: ExportOptions) -> None:
    """
    Exports a model, prints how far it is from torch, and the folder.

    Raises:
        CliError: for wrong usage, missing packages, and an export that does not compute what the model does.
    """
    model = choose_model(options.model)
    output = _check(options)
    recordings = _find_recordings(options.audio)
    tagger = load_tagger(model, device="cpu")
    from .. import AudioError
    from ..exporting import VerificationError, export_model

    say(f"exporting to {options.format} and verifying ...")
    try:
        report = export_model(
            tagger.model,
            output,
            feature_extractor=tagger.feature_extractor,
            format=str(options.format),
            input=options.input,
            quantize=options.quantize,
            recordings=recordings,
            model_name=_name(model),
            overwrite=options.overwrite,
        )
    except AudioError as error:
        raise CliError(f"--audio: {error}", FAILED) from error
    except VerificationError as error:
        raise CliError(f"the export was discarded: {error}", FAILED) from error
    except OSError:
        raise
    except Exception as error:  # exporters have their own, of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CliError(f"{options.format} export failed: {reason[:300]}", FAILED) from error
    _print_report(report, options)


def _check(options: ExportOptions) -> str:
    """Refuses what can be seen to be wrong before torch is imported; returns the output."""
    formats: Any = load_module("runtimes/formats")
    if options.format is None:
        raise CliError(f"choose a format with --format: {', '.join(formats.Format)}")
    if not options.output:
        raise CliError("name the folder to make with --output")
    try:
        choice = formats.choose(options.format, options.input, options.quantize)
    except ValueError as error:
        raise CliError(str(error)) from error
    try:
        formats.check_export_packages(choice)
    except ImportError as error:
        raise CliError(str(error), FAILED) from error
    try:
        load_module("exporting/output").check_output(options.output, options.overwrite)
    except FileExistsError as error:
        hint = str(error).replace("overwrite it or give", "--overwrite replaces it; or give")
        raise CliError(f"--output {hint}") from error
    except FileNotFoundError as error:
        raise CliError(f"--output {error}") from error
    return options.output


def _find_recordings(audio: tuple[str, ...]) -> list[Any]:
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


def _name(model: str) -> str:
    """A Hub id as it is; a folder's own name, without those that it is in."""
    return Path(os.path.realpath(model)).name if os.path.isdir(model) else model


def _print_report(report: "ExportReport", options: ExportOptions) -> None:
    say("clips        largest difference in probability from torch")
    say(*(f"{check.batch_size} of {check.seconds:5.2f} s  {check.probabilities:.1e}" for check in report.checks))
    if report.sherpa is not None:
        sherpa = report.sherpa
        say(
            f"sherpa-onnx with its own features: {sherpa.mean_probability:.1e} on average, at most"
            f" {sherpa.probability:.1e}; same best class in {sherpa.top_1} of {sherpa.recordings} recordings"
        )
    if options.quantize == "int8" and not report.is_calibrated:
        say("calibrated on synthetic sounds: give recordings with --audio for a better int8")
    say(f"{report.file.name}: {report.num_bytes / 1e6:.1f} MB; README.md says how to run it")
    put(str(options.output))
