# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The group of commands `ced distill`."""

import typer

from .teach import teach
from .train import train
from .usage import Command, Group

app = typer.Typer(
    cls=Group,
    help="Train a small model from larger ones, on unlabelled audio.\n\n"
    "First `teach` stores the outputs of the larger models (teachers) for your audio, then `train` trains the small"
    " model (student) on them.",
    epilog="Example: ced distill teach sounds/ --teacher mispeech/ced-base --epochs 10 --output store",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command(
    cls=Command,
    epilog="ced distill teach sounds/ -t mispeech/ced-base -t mispeech/ced-small \\\n    --epochs 10 --output store",
)(teach)
app.command(cls=Command, epilog="ced distill train store --student tiny --output my-tagger")(train)
