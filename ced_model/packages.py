# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Packages that not every installation has."""

import sys
from importlib.util import find_spec

INSTALL = {
    "onnx": "pip install onnxruntime onnx",
    "openvino": 'pip install "ced_model[openvino]"',
    "torch": "pip install torch torchaudio transformers",
}


class MissingPackageError(ImportError):
    """A package that is not installed. The message is one line with the command that installs it."""


def require(packages: tuple[str, ...], purpose: str, install: str) -> None:
    """Raises a `MissingPackageError` of one line if one of `packages` is not installed."""
    if names := missing(packages):
        listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names)
        raise MissingPackageError(f"{purpose} requires {listed}: {install}")


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those of `packages` that are not installed. Imports none of them."""
    return [name for name in packages if (sys.modules[name] if name in sys.modules else find_spec(name)) is None]
