# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill`: its commands."""

import typer

from .teach import teach
from .train import train

app = typer.Typer(
    help="Make a model of your own from other models, without labels.\n\n"
    "First `teach` stores what teachers say of your audio, then `train` trains a student on it.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command()(teach)
app.command()(train)
