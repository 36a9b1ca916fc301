# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The `ced` command: parses arguments, calls the library and prints results."""


def main() -> None:
    """Entry point of `ced` and `python -m ced_model`."""
    try:
        from .terminal import prepare_process

        prepare_process()
        from .app import run

        run()
    except KeyboardInterrupt:  # before the command began
        from .errors import INTERRUPTED
        from .terminal import say

        say("ced: interrupted")
        raise SystemExit(INTERRUPTED) from None
