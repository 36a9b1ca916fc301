# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks for optional packages."""

import sys
from importlib.util import find_spec

INSTALL = {
    "onnx": "pip install onnxruntime onnx",
    "openvino": 'pip install "ced_model[openvino]"',
    "torch": "pip install torch torchaudio transformers",
}


class MissingPackageError(ImportError):
    """Raised if a package is not installed. The message is one line with the command to install it."""


def require(packages: tuple[str, ...], purpose: str, install: str) -> None:
    """Raises a `MissingPackageError` unless all `packages` are installed."""
    if names := missing(packages):
        listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names)
        raise MissingPackageError(f"{purpose} requires {listed}: {install}")


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those of `packages` that are not installed, without importing the others."""
    return [name for name in packages if (sys.modules[name] if name in sys.modules else find_spec(name)) is None]
