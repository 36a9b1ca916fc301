# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options shared by the training commands, such as `--set NAME=VALUE` for any field of `TrainingArguments`."""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, NoReturn

from .errors import CliError
from .options import OUTPUT, TRAINING, option

Output = Annotated[
    str | None,
    option(
        OUTPUT,
        "--output",
        "-o",
        metavar="DIR",
        help="The new model folder, written at the end; until then DIR.training. Required.",
    ),
]
LearningRate = Annotated[
    float | None, option(TRAINING, metavar="RATE", help="Maximum learning rate; by default 0.001.")
]
Mixup = Annotated[
    float | None, option(TRAINING, metavar="ALPHA", help="Mix pairs of inputs and their targets; by default off.")
]
Seed = Annotated[int | None, option(TRAINING, metavar="N", min=0, help="Random seed; by default 0.")]
Resume = Annotated[bool, option(OUTPUT, "--resume", help="Continue from the last checkpoint, if there is one.")]
Overwrite = Annotated[
    bool, option(OUTPUT, "--overwrite", help="Replace the model in DIR, and discard an unfinished run.")
]
Settings = Annotated[
    list[str] | None,
    option(
        TRAINING,
        "--set",
        metavar="NAME=VALUE",
        help="Set a field of transformers' TrainingArguments, such as bf16=true. Can be repeated.",
    ),
]


def split_settings(settings: Iterable[str] | None) -> dict[str, str]:
    """Names and values as strings. This syntax check needs no slow imports."""
    values: dict[str, str] = {}
    for setting in settings or ():
        name, separator, value = setting.partition("=")
        if not separator or not name.replace("-", "_").isidentifier():
            raise CliError(f"--set {setting}: expected NAME=VALUE, such as bf16=true")
        name = name.replace("-", "_")
        if values.setdefault(name, value) != value:
            raise CliError(f"--set {name} is given twice, as {values[name]} and {value}")
    return values


def parse_settings(settings: Iterable[str] | None) -> dict[str, Any]:
    """
    The values of `--set` by name, converted to the types of the fields of `TrainingArguments`.

    Raises:
        CliError: for an unknown field or a value of the wrong type.
    """
    values = split_settings(settings)
    if not values:
        return {}
    from transformers import HfArgumentParser, TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known)
            hint = f": did you mean {' or '.join(close)}?" if close else ""
            raise CliError(f"--set {name}={values[name]}: TrainingArguments has no such field{hint}")
    parser = HfArgumentParser(TrainingArguments)  # type: ignore[arg-type]
    parsed = {}
    for name, value in values.items():
        parser.error = _refuse(name, value)  # type: ignore[method-assign]  # the default ends the process
        parsed[name] = getattr(parser.parse_args([f"--{name}={value}"]), name)
    return parsed


def _refuse(name: str, value: str) -> Any:
    def error(message: str) -> NoReturn:
        raise CliError(f"--set {name}={value}: {re.sub(r'^argument [^:]*: ', '', message)}")

    return error
