# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`--engine` and `--compute-type` of the commands."""

from pathlib import Path

import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from ced_model.cli.app import app


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("tag", ["--engine", "tflite"], "ced: --engine tflite: expected "),
        ("tag", ["--engine", "onnx", "--device", "cuda"], "ced: --device cuda: expected "),
        ("plot", ["--engine", "onnx", "--compute-type", "float16"], "ced: --compute-type float16: expected "),
    ],
)
def test_engines_and_types_that_do_not_exist_are_wrong_usage(
    command: str, options: list[str], message: str, clip: Path
) -> None:
    done = CliRunner().invoke(app, [command, str(clip), *options])
    assert done.exit_code == 2 and done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_results_hold_what_computed_them(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "tags.parquet"
    assert CliRunner().invoke(app, ["tag", str(clip), "--engine", "onnx", "-o", str(output)]).exit_code == 0
    made_by = parquet.read_schema(output).metadata[b"ced"]
    assert b'"engine": "onnx", "compute_type": "float32"' in made_by
