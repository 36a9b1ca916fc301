# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes ced-nano: recordings → scenes → pretraining → consistent ensemble distillation → report.

    python examples/ced_nano/make.py WORK

Every stage goes on from where it was stopped. WORK needs about 40 GB.
"""

import argparse
import logging
from pathlib import Path

import torch

import scenes
import sources
from ced_model import CedConfig, CedFeatureExtractor
from pretrain import PretrainArguments, pretrain

TRAIN_SHARDS = 140  # 100 h
HELDOUT_SHARDS = 4
STUDENT = CedConfig(embed_dim=192, depth=6, num_heads=3, name="ced-nano")


def collect(work: Path) -> None:
    sources.fetch(work / "src")
    sources.build_bank(work / "src", work / "bank")
    scenes.listen(work / "bank")


def mix(work: Path, *, processes: int) -> None:
    scenes.write_shards(work, "heldout", HELDOUT_SHARDS, processes=processes)
    scenes.write_shards(work, "train", TRAIN_SHARDS, processes=processes)


def start(work: Path, arguments: PretrainArguments, *, name: str = "pretrain") -> None:
    model = pretrain(STUDENT, scenes.Shards(work / "shards" / "train"), work / name, arguments)
    model.student.save_pretrained(work / name / "student")
    CedFeatureExtractor().save_pretrained(work / name / "student")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--stage", choices=("collect", "mix", "pretrain"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of PretrainArguments")
    parser.add_argument("--name", default="pretrain", help="folder of the pretraining in WORK")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(options.threads)
    if options.stage in (None, "collect"):
        collect(options.work)
    if options.stage in (None, "mix"):
        mix(options.work, processes=options.processes)
    if options.stage in (None, "pretrain"):
        values = dict(item.split("=", 1) for item in options.set)
        arguments = PretrainArguments(**{name: type(getattr(PretrainArguments, name))(v) for name, v in values.items()})
        start(options.work, arguments, name=options.name)


if __name__ == "__main__":
    main()
