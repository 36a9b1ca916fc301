# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes ced-nano: recordings → scenes → pretraining → consistent ensemble distillation → report.

    python examples/ced_nano/make.py WORK

After an interruption, every stage continues. WORK needs about 40 GB.
"""

import argparse
import logging
import subprocess
import sys
from pathlib import Path

import torch

import publish
import report
import scenes
import sources
import synthesis
from ced_model import CedConfig, CedFeatureExtractor
from pretrain import PretrainArguments, pretrain

SYNTHESISED_TAKES = 40  # of each kind
TRAIN_SHARDS = 66  # 47 h
HELDOUT_SHARDS = 4
DISTILLED_HOURS = 40.0
DISTILLED_EPOCHS = 4
DISTILLED_PASSES = 3  # of training; each uses another epoch of the store
STUDENT = CedConfig(embed_dim=192, depth=6, num_heads=3, name="ced-nano")
TEACHER = f"{Path(__file__).with_name('yamnet.py')}:YamNet"

STAGES = ("synthesize", "collect", "mix", "pretrain", "teach", "train", "report")


def collect(work: Path) -> None:
    """Downloads and decodes the recordings, and runs the teacher on them."""
    sources.fetch(work / "src")
    sources.build_bank(work / "src", work / "bank")
    scenes.listen(work / "bank")


def mix(work: Path, processes: int) -> None:
    """Makes scenes, with the teacher's outputs for every 0.96 s."""
    scenes.write_shards(work, "heldout", HELDOUT_SHARDS, processes=processes)
    scenes.write_shards(work, "train", TRAIN_SHARDS, processes=processes)


def start(work: Path, arguments: PretrainArguments) -> None:
    """Pretrains the student on short windows."""
    model = pretrain(STUDENT, scenes.Shards(work / "shards" / "train"), work / "pretrain", arguments)
    model.student.save_pretrained(work / "pretrain" / "student")
    CedFeatureExtractor().save_pretrained(work / "pretrain" / "student")


def teach(work: Path, processes: int) -> None:
    """Runs the teacher on complete scenes with seeded augmentation."""
    scenes.write_audio(work, "train", DISTILLED_HOURS, work / "audio", processes=processes)
    command = ("torch.distributed.run", "--nproc-per-node", processes, "-m", "ced_model", "distill", "teach")
    _run(*command, work / "audio", "-t", TEACHER, "-e", DISTILLED_EPOCHS, "-o", work / "store")


def train(work: Path) -> None:
    """Consistent ensemble distillation of the pretrained student."""
    if not (work / "distilled").exists():
        given = ("--learning-rate", 5e-4, "--workers", 1, "--set", "bf16=true", "--resume", "--save-steps", 200)
        given += ("-s", work / "pretrain" / "student", "-o", work / "distilled", "--epochs", DISTILLED_PASSES)
        _run("ced_model", "distill", "train", work / "store", *given)


def _run(*command: object) -> None:
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True)


def pretrain_arguments(settings: list[str]) -> PretrainArguments:
    values = dict(setting.split("=", 1) for setting in settings)
    return PretrainArguments(**{name: type(getattr(PretrainArguments, name))(v) for name, v in values.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of PretrainArguments")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(options.processes)
    work = options.work.absolute()
    for stage in options.stages:
        match stage:
            case "synthesize":
                synthesis.write_all(work, SYNTHESISED_TAKES)
            case "collect":
                collect(work)
            case "mix":
                mix(work, options.processes)
            case "pretrain":
                start(work, pretrain_arguments(options.set))
            case "teach":
                teach(work, options.processes)
            case "train":
                train(work)
            case "report":
                publish.pack((work / "pretrain" / "student", work / "distilled"), work / "packed")
                report.write(work)


if __name__ == "__main__":
    main()
