# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder of a run beside its output: checkpoints, and what an interrupted run goes on with."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...labelled import LabelledClips
from ...output import write_file
from .arguments import FinetuningOptions
from .clips import FinetuningClips

RUN_FILE = "finetuning.json"
HELD_OUT_FILE = "held_out.jsonl"
STATE_FILE = "trainer_state.json"  # what Trainer writes last into a checkpoint
# The beginnings of training arguments that may differ when a run goes on.
FREE_ARGUMENTS = ("dataloader_", "logging_", "log_", "report_to", "run_name", "disable_tqdm")


def describe_run(
    model: str, clips: FinetuningClips, options: FinetuningOptions, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """What must be the same when a run goes on, as JSON has it."""
    subsets = {"training clips": clips.training, "validation clips": clips.validation}
    run = {
        "model": model,
        "labels": clips.training.labels,
        "problem_type": clips.training.problem_type,
        **{name: value for name, value in asdict(options).items() if name != "device"},
        **{name: value for name, value in overrides.items() if not name.startswith(FREE_ARGUMENTS)},
        **{name: _digest(subset) for name, subset in subsets.items()},
    }
    return json.loads(json.dumps(run, default=str))


def _digest(clips: LabelledClips | None) -> str | None:
    if clips is None:
        return None
    paths = "\0".join(map(os.path.abspath, clips.paths))
    digest = hashlib.sha256(os.fsencode(paths))
    digest.update(np.ascontiguousarray(clips.targets).tobytes())
    return f"{len(clips)}, {digest.hexdigest()[:16]}"


def prepare_run(checkpoints: Path, run: dict[str, Any], resume: bool, overwrite: bool) -> Path | None:
    """
    Makes the folder of a run, or finds the checkpoint to go on from; without one a resumed run begins anew.

    Raises:
        ValueError: if there is another run, or something else.
    """
    run_file = checkpoints / RUN_FILE
    if checkpoints.exists() and (not checkpoints.is_dir() or (any(checkpoints.iterdir()) and not run_file.is_file())):
        raise ValueError(f"{checkpoints} holds something else than checkpoints: move it, or choose another output.")
    if run_file.is_file() and resume:
        stored = json.loads(run_file.read_text(encoding="utf-8"))
        differing = sorted(name for name in {*run, *stored} if stored.get(name) != run.get(name))
        if differing:
            raise ValueError(
                f"{checkpoints} cannot be resumed: its run was another one in {', '.join(differing)}; overwrite it"
                " without resuming, or choose another output."
            )
        return last_checkpoint(checkpoints)
    if run_file.is_file():
        if not overwrite and last_checkpoint(checkpoints) is not None:
            raise ValueError(f"{checkpoints} holds the checkpoints of a run: resume it, or overwrite it.")
        shutil.rmtree(checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    write_file(run_file, (json.dumps(run, indent=2) + "\n").encode())
    return None


def write_held_out(checkpoints: Path, clips: FinetuningClips) -> None:
    """Leaves a table of the held-out clips, with which the model can be evaluated again."""
    if clips.validation is None or not clips.is_held_out:
        return
    lines = []
    for path, targets in zip(clips.validation.paths, clips.validation.targets, strict=True):
        labels = [clips.validation.labels[index] for index in np.flatnonzero(targets >= 0.5)]
        lines.append(json.dumps({"file_name": os.path.abspath(path), "labels": labels}) + "\n")
    write_file(checkpoints / HELD_OUT_FILE, "".join(lines).encode())


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The last one that was written to its end; those after it are removed."""
    found = [path for path in checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]
    for path in sorted(found, key=lambda path: -int(path.name.split("-")[-1])):
        try:
            json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
            return path
        except (OSError, ValueError):
            shutil.rmtree(path)
    return None


def has_ended(checkpoint: Path) -> bool:
    """Whether nothing was left to train when it was written: all epochs were through, or the patience was."""
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])
