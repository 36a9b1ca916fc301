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
    """What one format can do."""

    file: str  # the program, in the folder of an export
    inputs: tuple[Input, ...]  # the first one is the default
    quantizations: tuple[Quantization, ...]
    extra: str | None  # of `pip install "ced_model[…]"`, with the packages below
    packages: tuple[str, ...]  # that exporting and running need, by the names that they are imported by
    int8_packages: tuple[str, ...] = ()  # that `int8` needs besides


SUPPORT: dict[Format, Support] = {
    Format.ONNX: Support(
        "model.onnx",
        (Input.WAVEFORM, Input.MEL),
        (Quantization.FP16, Quantization.INT8),
        "onnx",
        ("onnx", "onnxruntime", "onnxscript"),
    ),
    Format.OPENVINO: Support(
        "model.xml",
        (Input.WAVEFORM, Input.MEL),
        (Quantization.FP16, Quantization.INT8),
        "openvino",
        ("openvino",),
        ("nncf",),
    ),
    Format.TORCH: Support("model.pt2", (Input.WAVEFORM, Input.MEL), (Quantization.FP16,), None, ()),
    Format.EXECUTORCH: Support(
        "model.pte",
        (Input.WAVEFORM, Input.MEL),
        (Quantization.FP16,),
        "executorch",
        ("executorch",),
    ),
    Format.SHERPA_ONNX: Support(
        "model.onnx",
        (Input.MEL,),  # its C++ computes the features
        (Quantization.FP16, Quantization.INT8),
        "sherpa-onnx",
        ("onnx", "onnxruntime", "onnxscript", "sherpa_onnx"),
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


def check_installed(choice: Choice) -> None:
    """Raises an `ImportError` that names the extra, if packages are missing that the choice needs."""
    support = SUPPORT[choice.format]
    needed = support.packages + (support.int8_packages if choice.quantization is Quantization.INT8 else ())
    missing = [name.replace("_", "-") for name in needed if find_spec(name) is None]
    if missing:
        what = f"{choice.format} {choice.quantization}" if set(missing) & set(support.int8_packages) else choice.format
        raise ImportError(f'{what} needs {", ".join(missing)}: pip install "ced_model[{support.extra}]"')
