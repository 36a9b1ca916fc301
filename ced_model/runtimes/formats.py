# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What can be exported to what. Imports nothing heavy: wrong usage is refused before any work starts."""

from enum import StrEnum
from importlib.util import find_spec
from typing import NamedTuple


class Format(StrEnum):
    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH = "torch"
    EXECUTORCH = "executorch"
    SHERPA_ONNX = "sherpa-onnx"


class Input(StrEnum):
    WAVEFORM = "waveform"
    MEL = "mel"


class Quantization(StrEnum):
    FP16 = "fp16"
    INT8 = "int8"


class Support(NamedTuple):
    """What one format can do, and the packages for it by the names that they are imported by."""

    file: str  # the program, in the folder of an export
    inputs: tuple[Input, ...]  # the first one is the default
    quantizations: tuple[Quantization, ...]
    runtime: str  # the package that runs it
    extra: str | None  # of `pip install "ced_model[…]"`
    packages: tuple[str, ...]  # that exporting needs
    int8_packages: tuple[str, ...] = ()  # that exporting with `int8` needs besides


BOTH = (Input.WAVEFORM, Input.MEL)
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

SUPPORT: dict[Format, Support] = {
    Format.ONNX: Support("model.onnx", BOTH, tuple(Quantization), "onnxruntime", "onnx", ONNX_PACKAGES),
    Format.OPENVINO: Support(
        "model.xml", BOTH, tuple(Quantization), "openvino", "openvino", ("openvino",), int8_packages=("nncf",)
    ),
    Format.TORCH: Support("model.pt2", BOTH, (Quantization.FP16,), "torch", None, ()),
    Format.EXECUTORCH: Support(
        "model.pte", BOTH, tuple(Quantization), "executorch", "executorch", ("executorch",), int8_packages=("torchao",)
    ),
    Format.SHERPA_ONNX: Support(
        "model.onnx",
        (Input.MEL,),  # its C++ computes the features
        tuple(Quantization),
        "onnxruntime",  # runs the file as well, which says whether features or model differ
        "sherpa-onnx",
        (*ONNX_PACKAGES, "sherpa_onnx"),
    ),
}


class Choice(NamedTuple):
    """A supported combination."""

    format: Format
    input: Input
    quantization: Quantization | None

    @property
    def file(self) -> str:
        return SUPPORT[self.format].file


def choose(format: str, input: str | None = None, quantize: str | None = None) -> Choice:
    """
    Checks what was asked for; `input` is by default the first that the format takes.

    Raises:
        ValueError: for an unknown format, or one that does not take the input or the quantization; it lists those
            that are supported.
    """
    if format not in list(Format):
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(Format)}")
    support = SUPPORT[Format(format)]
    if input is not None and input not in support.inputs:
        raise ValueError(f"{format} takes no input {input!r}, only {' or '.join(support.inputs)}")
    if quantize is not None and quantize not in support.quantizations:
        raise ValueError(
            f"{format} cannot be quantized to {quantize!r}, only to {' or '.join(support.quantizations)};"
            f" {_who_can(quantize)}"
        )
    return Choice(
        Format(format),
        support.inputs[0] if input is None else Input(input),
        None if quantize is None else Quantization(quantize),
    )


def _who_can(quantize: str) -> str:
    able = [format.value for format, support in SUPPORT.items() if quantize in support.quantizations]
    return f"{', '.join(able)} can" if able else "no format can"


def check_export_packages(choice: Choice) -> None:
    """Raises an `ImportError` that names the extra, if packages are missing that exporting needs."""
    support = SUPPORT[choice.format]
    _check_packages(choice.format, support.packages)
    if choice.quantization is Quantization.INT8:
        _check_packages(choice.format, support.int8_packages, " int8")


def check_runtime(format: Format) -> None:
    """The same for the package that runs a format."""
    _check_packages(format, (SUPPORT[format].runtime,))


def _check_packages(format: Format, packages: tuple[str, ...], purpose: str = "") -> None:
    missing = [name.replace("_", "-") for name in packages if find_spec(name) is None]
    if missing:
        install = f'pip install "ced_model[{SUPPORT[format].extra}]"'
        raise ImportError(f"{format}{purpose} needs {', '.join(missing)}: {install}")
