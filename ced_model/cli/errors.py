# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The error that ends a command, and exit codes."""

WRONG_USAGE = 2
FAILED = 1
INTERRUPTED = 130


class CliError(Exception):
    """Ends the command: the message is printed on stderr as one line. The default exit code is that of wrong usage."""

    def __init__(self, message: str, exit_code: int = WRONG_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
