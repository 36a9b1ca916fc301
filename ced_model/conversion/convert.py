# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts a checkpoint to a model folder, and verifies the folder."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError

from ..configuration_ced import CedConfig
from ..feature_extraction_ced import CedFeatureExtractor
from ..messages import one_line, printable
from ..model_card import create_model_card, published_eval_results, published_size
from ..modeling_ced import CedForAudioClassification, CedModel
from ..pretrained import (
    CLASSIFIER_FILES,
    MODEL_FILES,
    check_output,
    load_feature_extractor,
    new_model_folder,
    save_model_folder,
)
from .checkpoint import Checkpoint, ConversionError, read_checkpoint
from .shape import make_config

UNKNOWN_DATA = "The training data of these weights are not known."
VERIFICATION_SAMPLES = 48000  # 3 s
VERIFICATION_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Conversion:
    """
    A model folder that was written and verified.

    Attributes:
        folder: The folder.
        architecture: The name of the model's class, such as `"CedForAudioClassification"`.
        size: `"ced-tiny"`, `"ced-mini"`, `"ced-small"` or `"ced-base"` for a model of this shape, else None.
        parameters: Number of parameters.
        num_labels: Number of classes; None for an encoder.
        notes: Assumptions, and tensors that were left out, one line each.
    """

    folder: Path
    architecture: str
    size: str | None
    parameters: int
    num_labels: int | None
    notes: tuple[str, ...]


def convert_checkpoint(
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    num_heads: int | None = None,
    overwrite: bool = False,
    model_id: str | None = None,
    published: str | None = None,
) -> Conversion:
    """
    Converts an original CED checkpoint or a Hub repository into a complete model folder.

    The folder has safetensors weights, both configurations, the custom code and a model card. It is written atomically,
    after it was loaded again and compared with the source; after an error, `output_dir` is unchanged.

    Args:
        source: An original `.pt` file (a state dict, or one under `"model"`; without a head it becomes an encoder), a
            folder in the format of the Hub, or a Hub id.
        output_dir: The folder to write. It must not exist or be empty, or, with `overwrite`, contain only files of a
            model.
        num_heads: Number of attention heads, which cannot be inferred from shapes. Required only if the source does not
            have it and the width is not a published one.
        overwrite: Whether to replace a model folder at `output_dir`.
        model_id: Hub id for the code in the model card, by default the name of the folder.
        published: `"tiny"`, `"mini"`, `"small"` or `"base"` for a downloaded checkpoint of that size. The model card
            then has the published results and `base_model`, as always for the Hub ids of the published models.

    Raises:
        `ValueError`: if the source cannot be read or has unknown, missing or misshapen tensors (all are listed), or if
            the folder cannot be written or differs from the source.
    """
    target = Path(output_dir).absolute()
    check_output(target, overwrite)
    checkpoint = read_checkpoint(source)
    if published is not None:
        checkpoint = replace(checkpoint, published=f"ced-{published}")
    config, notes = make_config(checkpoint, num_heads)
    model = _build_model(checkpoint, config)
    feature_extractor = load_feature_extractor(checkpoint.folder, config)
    card = _make_card(model, checkpoint, model_id or target.name)
    try:
        with new_model_folder(target, overwrite) as folder:
            save_model_folder(model, feature_extractor, folder, card)
            _verify(folder, model, feature_extractor, checkpoint)
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"{target} could not be written: {one_line(error)}") from error
    if checkpoint.dropped:
        names = ", ".join(map(printable, checkpoint.dropped))
        notes.append(f"left out {len(checkpoint.dropped)} decoder tensors: {names}")
    return Conversion(
        folder=target,
        architecture=type(model).__name__,
        size=published_size(config),
        parameters=model.num_parameters(),
        num_labels=config.num_labels if checkpoint.has_head else None,
        notes=tuple(notes),
    )


# --- Model -----------------------------------------------------------------------------------------------------------


def _build_model(checkpoint: Checkpoint, config: CedConfig) -> CedModel | CedForAudioClassification:
    """The model with the checkpoint's tensors, in their dtype; an error lists all tensors that do not fit."""
    architecture: Any = CedForAudioClassification if checkpoint.has_head else CedModel
    with torch.device("meta"):
        shapes = architecture(config).state_dict()
    expected = {_hub_name(name, checkpoint): tensor for name, tensor in shapes.items()}
    problems = _find_problems(checkpoint, expected)
    if problems:
        raise ConversionError("the tensors do not fit this model: " + "; ".join(problems))
    floating = {tensor.dtype for name, tensor in checkpoint.tensors.items() if expected[name].is_floating_point()}
    # Mixed precision is converted to the widest dtype.
    dtype = floating.pop() if len(floating) == 1 else torch.float32
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
        model = architecture(config).to(dtype)
    model.load_state_dict({name: checkpoint.tensors[_hub_name(name, checkpoint)] for name in shapes})
    return model.eval()


def _hub_name(name: str, checkpoint: Checkpoint) -> str:
    """Name of a model's tensor on the Hub; those of a bare encoder have no prefix."""
    return name if checkpoint.has_head else f"encoder.{name}"


def _find_problems(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> list[str]:
    """One phrase per kind of problem, with tensor names of the source."""
    tensors, names = checkpoint.tensors, checkpoint.source_names
    is_original = checkpoint.folder is None
    common = [name for name in tensors if name in expected]
    misshapen = [name for name in common if tensors[name].shape != expected[name].shape]
    typed_wrong = [name for name in common if not _fits_dtype(tensors[name].dtype, expected[name].dtype)]
    not_finite = [name for name in common if not torch.isfinite(tensors[name]).all()]
    kinds = {
        "missing": [_original_name(name) if is_original else name for name in expected if name not in tensors],
        "unknown": [names[name] for name in tensors if name not in expected],
        "misshapen": [
            f"{names[name]} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}" for name in misshapen
        ],
        "of the wrong type": [f"{names[name]} {tensors[name].dtype}" for name in typed_wrong],
        "with NaN or infinite values": [names[name] for name in not_finite],
    }
    return [f"{len(listed)} {kind}: {', '.join(listed)}" for kind, listed in kinds.items() if listed]


def _fits_dtype(dtype: torch.dtype, expected: torch.dtype) -> bool:
    """Whether weights have a floating-point dtype of models, and the counter of BatchNorm is an integer."""
    return dtype in (torch.float32, torch.float16, torch.bfloat16) if expected.is_floating_point else dtype == expected


def _original_name(name: str) -> str:
    return re.sub(r"^init_bn\.", "init_bn.1.", name.removeprefix("encoder."))


def _make_card(model: CedModel | CedForAudioClassification, checkpoint: Checkpoint, model_id: str) -> ModelCard:
    config: CedConfig = model.config
    # The shape does not prove that the model was trained on AudioSet.
    is_published = checkpoint.published is not None and checkpoint.published == published_size(config)
    return create_model_card(
        model,
        model_id=model_id,
        source=f"Converted from {checkpoint.description}",
        base_model=checkpoint.hub_id or (f"mispeech/{checkpoint.published}" if is_published else None),
        eval_results=published_eval_results(config) if is_published and checkpoint.has_head else [],
        datasets=None if is_published else [],
        training_data=None if is_published else UNKNOWN_DATA,
    )


def _verify(
    folder: Path,
    model: CedModel | CedForAudioClassification,
    feature_extractor: CedFeatureExtractor,
    checkpoint: Checkpoint,
) -> None:
    """Loads the folder; raises a [`ConversionError`] if its tensors differ from the source, or outputs from `model`."""
    expected = MODEL_FILES if checkpoint.has_head else MODEL_FILES - CLASSIFIER_FILES
    absent = sorted(expected - {path.name for path in folder.iterdir()})
    if absent:
        raise ConversionError(f"the written folder is incomplete and was removed: {', '.join(absent)} missing.")
    architecture: Any = type(model)
    reloaded, report = architecture.from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    loaded = {_hub_name(name, checkpoint): tensor for name, tensor in reloaded.state_dict().items()}
    differing = [name for name, tensor in checkpoint.tensors.items() if not _equals(loaded.get(name), tensor)]
    differing += [
        name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in map(str, report[kind])
    ]
    if differing:
        raise ConversionError(
            f"the written tensors differ from the source; the folder was removed: {', '.join(differing)}"
        )
    try:
        deviation = _deviation(model, feature_extractor, reloaded, CedFeatureExtractor.from_pretrained(folder))
    except (ValueError, RuntimeError) as error:
        raise ConversionError(f"the model cannot be run; the folder was removed: {one_line(error)}") from error
    if not deviation <= VERIFICATION_TOLERANCE:
        raise ConversionError(
            f"the written model's outputs differ by {deviation:.2g} from the source; the folder was removed."
        )


def _equals(loaded: torch.Tensor | None, source: torch.Tensor) -> bool:
    # The loaded dtype is that of the source, or wider if the source has several.
    return loaded is not None and torch.equal(loaded, source.to(loaded.dtype))


def _deviation(
    model: torch.nn.Module,
    feature_extractor: CedFeatureExtractor,
    reloaded: torch.nn.Module,
    reloaded_extractor: CedFeatureExtractor,
) -> float:
    """Largest difference of the two models' outputs for the same noise, each with its own feature extractor."""
    waveform = 0.1 * torch.randn(VERIFICATION_SAMPLES, generator=torch.Generator().manual_seed(0))
    outputs = []
    for network, front_end in ((model, feature_extractor), (reloaded, reloaded_extractor)):
        input_values = front_end(waveform, sampling_rate=front_end.sampling_rate)["input_values"]
        with torch.inference_mode():
            output = network.float().eval()(input_values)
        outputs.append(output.logits if "logits" in output else output.last_hidden_state)
    if outputs[0].shape != outputs[1].shape:
        return float("inf")
    return (outputs[0] - outputs[1]).abs().max().item()
