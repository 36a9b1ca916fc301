# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The formats of exports and their options. Imports no runtime."""

from importlib.metadata import version
from typing import NamedTuple

from ..engines import INSTALL, require
from ..messages import OptionError

COMPUTE_TYPES = ("float32", "float16", "int8")


class Format(NamedTuple):
    """
    A format of exports.

    Attributes:
        file: Name of the model file.
        runtime: Name of the runtime, for people.
        packages: Modules required for exporting and verification.
        pip: Packages that run the export, for pip.
        install: The command that installs `packages`.
        inputs: Supported inputs, `"waveform"` or `"mel"`; the first is the default.
        compute_types: Supported compute types.
    """

    file: str
    runtime: str
    packages: tuple[str, ...]
    pip: str
    install: str
    inputs: tuple[str, ...] = ("waveform", "mel")
    compute_types: tuple[str, ...] = COMPUTE_TYPES


FORMATS = {
    "onnx": Format("model.onnx", "ONNX Runtime", ("onnx", "onnxruntime"), "onnxruntime", INSTALL["onnx"]),
    "openvino": Format("model.xml", "OpenVINO", ("openvino",), "openvino", INSTALL["openvino"]),
    "sherpa-onnx": Format(
        "model.onnx", "sherpa-onnx", ("sherpa_onnx",), "sherpa-onnx", "pip install sherpa-onnx", ("mel",)
    ),
    "torch": Format(
        "model.pt2", "PyTorch", ("torch", "transformers"), "torch", INSTALL["torch"], compute_types=COMPUTE_TYPES[:2]
    ),
    "web": Format("model.onnx", "a browser", ("onnx", "onnxruntime"), "", INSTALL["onnx"], ("waveform",)),
}


class Choice(NamedTuple):
    """A supported combination of format, input and compute type."""

    format: str
    input: str
    compute_type: str

    @property
    def file(self) -> str:
        return FORMATS[self.format].file

    @property
    def packages(self) -> tuple[str, ...]:
        """Modules required for exporting, besides ONNX Runtime."""
        return FORMATS[self.format].packages


def choose_format(format: str, input: str | None = None, compute_type: str | None = None) -> Choice:
    """
    Checks a combination. Defaults are the first input of the format, and `"float32"`.

    Raises:
        OptionError: if it is not supported. The message lists the supported values.
        MissingPackageError: if a package is not installed. The message has the command that installs it.
    """
    if format not in FORMATS:
        raise OptionError("format", format, ", ".join(FORMATS))
    known = FORMATS[format]
    input, compute_type = input or known.inputs[0], compute_type or "float32"
    if input not in known.inputs:
        raise OptionError("input", input, f"{' or '.join(known.inputs)} for the format {format}")
    if compute_type not in known.compute_types:
        raise OptionError("compute_type", compute_type, f"{' or '.join(known.compute_types)} for the format {format}")
    choice = Choice(format, input, compute_type)
    require(("onnx", "onnxruntime"), "exporting", INSTALL["onnx"])  # the reference for verification
    require(choice.packages, f"the format {format}", known.install)
    return choice


def versions_of(choice: Choice) -> dict[str, str]:
    """Versions of the packages that make an export."""
    from .. import __version__

    packages = dict.fromkeys(("onnx", "onnxruntime", *choice.packages))
    return {"ced_model": __version__} | {name: version(name) for name in packages}
