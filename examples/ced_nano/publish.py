# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the trained student to the package, and its tables to the model card and the report."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import save_file

from ced_model import CedFeatureExtractor, CedForAudioClassification
from ced_model.training.distillation.checkpoints import average_checkpoints

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "ced_nano.md"
CARD_TEMPLATE = Path(__file__).with_name("card.md")


def pack(sources: Sequence[Path], folder: Path) -> None:
    """
    Averages the weights of the models in `sources` and stores them in float16 (config.json sets float32 for loading).

    Distillation with strong augmentation reduces the accuracy on clean and short recordings. Averaging with the
    pretrained model restores it.
    """
    model = CedForAudioClassification.from_pretrained(sources[0], dtype=torch.float32)
    model.load_state_dict(average_checkpoints(sources))
    store(model, CedFeatureExtractor.from_pretrained(sources[0]), folder)


def store(model: CedForAudioClassification, feature_extractor: CedFeatureExtractor, folder: Path) -> None:
    """Writes a model folder with weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    feature_extractor.save_pretrained(folder)
    weights = {name: _stored(tensor) for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors restricts it to the owner


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half().contiguous() if tensor.is_floating_point() else tensor


def publish(model: Path, report: Path, figures: dict[str, Any], tables: dict[str, str]) -> None:
    """Replaces weights, card, tables and plot in the repository. The shape of the student must be unchanged."""
    target = ROOT / "ced_model" / "checkpoints" / "ced-nano"
    shutil.copy(model / "model.safetensors", target)
    write_card(target, figures, tables)
    for name in ("classes", "sources", "sounds"):
        shutil.copy(report / f"{name}.csv", PAGE.with_name(f"ced_nano_{name}.csv"))
    shutil.copy(report / "training.png", PAGE.parent / "images" / "ced_nano_training.png")
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


def write_card(folder: Path, figures: dict[str, Any], tables: dict[str, str]) -> None:
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["ced", "audio", "audio-tagging", "audioset"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(CARD_TEMPLATE),
        tables=tables,
        named=sum(figures["named"].values()),
        sounds=len(figures["named"]),
        unnamed=", ".join(sound for sound, is_named in figures["named"].items() if not is_named),
        hours=sum(row["hours"] for row in figures["sources"]),
        mix_hours=figures["mix_hours"],
    )
    card.save(folder / "README.md")


def fill(page: str, tables: dict[str, str]) -> str:
    """Replaces the text between `<!-- NAME -->` and `<!-- end -->` by the table of that name."""

    def replacement(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{tables[match[1]].strip()}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", replacement, page, flags=re.DOTALL)
