# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The `ced` command. It lives beside `ced_model`, since importing that costs the import of torch and transformers."""


def main() -> None:
    """Entry point of `ced` and `python -m ced_cli`."""
    from .terminal import prepare_process

    prepare_process()
    from .app import run

    run()
