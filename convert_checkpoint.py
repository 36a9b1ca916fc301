#!/usr/bin/env python3
# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The same as `ced convert`: converts an original CED checkpoint or a CED repository on the Hub to a model folder."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `ced convert` with the arguments `argv`, by default those of the process, and exits."""
    from ced_model.cli import main as ced

    sys.argv[1:] = ["convert", *(sys.argv[1:] if argv is None else argv)]
    ced()


if __name__ == "__main__":
    main()
