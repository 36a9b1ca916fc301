# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What can be exported to what. Imports nothing heavy: wrong usage is refused before any work starts."""

from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
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

TORCH = "torch"  # what taggers compute with by default: the model itself, not an export of it
TAGGER_RUNTIMES = (TORCH, Format.ONNX.value, Format.OPENVINO.value)
TAGGER_QUANTIZATIONS = (Quantization.INT8.value,)  # fp16 is no faster, and less exact


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


def choose_for_tagger(
    runtime: str, quantize: str | None = None, device: object = None, dtype: object = None
) -> Choice | None:
    """
    What an `AudioTagger` runs: an export, or None for torch itself. The arguments are those of its `from_pretrained`.

    Raises:
        ValueError: for an unknown runtime or quantization, and for a combination that there is not.
        ImportError: if packages are missing; it names the extra.
    """
    if runtime not in TAGGER_RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}: choose one of {', '.join(TAGGER_RUNTIMES)}")
    if quantize is not None and quantize not in TAGGER_QUANTIZATIONS:
        raise ValueError(f"unknown quantization {quantize!r}: choose {' or '.join(TAGGER_QUANTIZATIONS)}, or none")
    if runtime == TORCH:
        if quantize is not None:
            others = " or ".join(name for name in TAGGER_RUNTIMES if name != TORCH)
            raise ValueError(f"the runtime torch has no {quantize}: choose the runtime {others} for it")
        return None
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise ValueError(f"the runtime {runtime} computes on the CPU, not on {str(device)!r}: leave the device out")
    if dtype is not None:
        raise ValueError(f"the runtime {runtime} has no dtype {dtype}: leave it out; int8 is a quantization")
    # Spectrograms, since then all runtimes share one front end: see docs/runtimes.md.
    choice = choose(runtime, Input.MEL, quantize)
    check_runtime(choice.format)
    check_export_packages(choice)
    return choice


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


def versions(choice: Choice) -> dict[str, str]:
    """Versions of what makes an export."""
    from .. import __version__  # here, since this file is also loaded without the package

    support = SUPPORT[choice.format]
    for_int8 = support.int8_packages if choice.quantization is Quantization.INT8 else ()
    found = {"ced_model": __version__}
    for package in ("transformers", "torch", *support.packages, *for_int8):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
