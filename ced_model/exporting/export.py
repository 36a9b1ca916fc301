# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports a model to a verified folder for another runtime."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..audio import AudioInput
from ..calibration import bundled_recordings, load_recordings, synthetic_recordings
from ..engines import EngineError, MissingPackageError, one_line_error
from ..messages import OptionError
from ..model_folder import ModelFolder, open_model
from ..output import check_writable, new_folder
from .formats import choose_format
from .metadata import LABELS_FILE, METADATA_FILE, build_metadata, labels_csv
from .programs import load_export, write_program
from .readme import write_readme
from .sherpa_onnx import SherpaComparison, check_front_end, compare_with_sherpa
from .verification import Check, open_references, verify
from .web import write_page
from .web_runtime import choose_runtime


class ExportReport(NamedTuple):
    """
    The files of an export, and its differences from the model.

    Attributes:
        folder: The folder of the export.
        file: The exported model in it.
        num_bytes: Size of the exported model and its weights in bytes.
        checks: The differences from the model, for each length of clips and number of clips per batch.
        sherpa: For `"sherpa-onnx"`, a comparison of its own features with those of this package; else None.
        is_calibrated: Whether `recordings` were given, which int8 is then calibrated on.
    """

    folder: Path
    file: Path
    num_bytes: int
    checks: list[Check]
    sherpa: SherpaComparison | None
    is_calibrated: bool


def export_model(
    model: str | os.PathLike[str] | ModelFolder,
    output: str | os.PathLike[str],
    *,
    format: str = "onnx",
    input: str | None = None,
    compute_type: str | None = None,
    recordings: Iterable[AudioInput] = (),
    overwrite: bool = False,
    num_threads: int | None = None,
    runtime: str | os.PathLike[str] | None = None,
) -> ExportReport:
    """
    Exports a classifier for another runtime, and verifies the export against the model.

    Args:
        model: A model folder, a Hub id, `"ced-nano"`, or what `open_model` returned.
        output: The new folder. It is created after the export is verified.
        format: `"onnx"`, `"openvino"`, `"sherpa-onnx"`, `"torch"` (torch.export) or `"web"` (a page that tags in the
            browser).
        input: `"waveform"` (default, not for sherpa-onnx) or `"mel"`.
        compute_type: `"float32"` (default); `"float16"` stores the weights in half precision and computes in float32;
            `"int8"` computes the transformer blocks in 8-bit integers, calibrated on the `recordings`.
        recordings: Audio for verification and int8 calibration: the first 10.12 s of up to 100 recordings (32 for
            calibration). By default synthetic sounds, and for verification also the recordings of `resources/`, if
            they are installed.
        overwrite: Whether to replace an existing export at `output`.
        num_threads: CPU threads for verification, by default one per core.
        runtime: For `"web"`, a `node_modules` folder with ONNX Runtime Web and Mediabunny. By default they are
            downloaded once from the npm registry.

    Raises:
        OptionError: for an unsupported combination, an `output` that may not be replaced, or a `runtime` without the
            required files.
        RunError: if the runtime of a page cannot be downloaded.
        ModelFolderError: if the model cannot be loaded.
        MissingPackageError: if packages are missing. The message has the command that installs them.
        AudioError: if a recording cannot be read.
        EngineError: if the exporter or quantizer fails.
        VerificationError: if outputs of the export differ from those of the model. Nothing is written then.
    """
    choice = choose_format(format, input, compute_type)
    destination = check_output(output, overwrite)
    packages = choose_runtime(choice.format, runtime)
    if not isinstance(model, ModelFolder):
        model = open_model(model)
    front_end = model.front_end
    if choice.format == "sherpa-onnx":
        check_front_end(front_end)
    if choice.input == "waveform" and front_end.n_fft % 2:
        raise OptionError("input", "waveform", f"mel, since the model's `n_fft={front_end.n_fft}` is odd")
    if choice.format == "torch" and model.path is None:
        raise OptionError("model", model.name, "a folder or a Hub id for the format torch")
    rate, longest = front_end.sampling_rate, front_end.max_samples(model.settings.target_length)
    given = load_recordings(recordings, rate, longest)
    imitations = [clip[:longest] for clip in synthetic_recordings(rate)]
    clips = given or bundled_recordings(rate, longest) + imitations
    metadata = build_metadata(model, choice)
    with new_folder(destination, check_export if overwrite else None) as folder:
        text = json.dumps(metadata, ensure_ascii=False, indent=1)
        (folder / METADATA_FILE).write_text(text + "\n", encoding="utf-8")
        (folder / LABELS_FILE).write_text(labels_csv(metadata), encoding="utf-8")
        try:
            write_program(model, choice, folder / choice.file, metadata, given or imitations)
        except (EngineError, MissingPackageError, OSError):
            raise
        except Exception as error:  # of any exporter or quantizer
            raise EngineError(f"writing it failed: {one_line_error(error)}") from error
        export = load_export(folder, num_threads=num_threads)
        checks = verify(export, model, open_references(model, num_threads or os.cpu_count() or 1), clips)
        comparison = None
        if choice.format == "sherpa-onnx":
            comparison = compare_with_sherpa(folder, export, front_end, clips)
        if packages is not None:
            write_page(folder, metadata, packages)
        else:
            (folder / "README.md").write_text(write_readme(metadata, checks, comparison), encoding="utf-8")
        weights = metadata.get("weights") or [path.name for path in folder.glob(f"{Path(choice.file).stem}.*")]
        num_bytes = sum((folder / name).stat().st_size for name in {choice.file, *weights})
        del export  # keeps the file open
    return ExportReport(destination, destination / choice.file, num_bytes, checks, comparison, bool(given))


def check_output(output: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """
    The path of the new folder, with links resolved.

    Raises:
        OptionError: if its parent folder does not exist, or it exists and is neither an empty folder nor, with
            `overwrite`, an export.
        OSError: if it cannot be written.
    """
    path = Path(os.path.realpath(Path(output).expanduser()))
    expected = None
    if not path.parent.is_dir():
        expected = "a path in an existing folder"
    elif path.exists() and not path.is_dir():
        expected = "a folder, not a file"
    elif path.is_dir() and any(path.iterdir()):
        if not _is_export(path):
            expected = "a new folder; this one has other files"
        elif not overwrite:
            expected = "a new folder; this one has an export: use `overwrite=True`, or give another name"
    if expected is not None:
        raise OptionError("output", os.fspath(output), expected)
    check_writable(path)
    return path


def check_export(folder: Path) -> None:
    """Raises a `FileExistsError` if a folder is not an export."""
    if not _is_export(folder):
        raise FileExistsError(f"{folder} has other files in it")


def _is_export(folder: Path) -> bool:
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and metadata.get("model_type") == "ced" and "format" in metadata
