# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card (README.md) of a CED model on the Hugging Face Hub."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from .audioset import AUDIOSET_LABELS
from .configuration_ced import CED_SIZES, CedConfig
from .hub import PUBLISHED_FIGURES
from .modeling_ced import CedForAudioClassification, CedModel

TEMPLATE_PATH = Path(__file__).parent / "model_card_template.md"
AUDIOSET_DATASET = "agkphysics/AudioSet"
PAPER_URL = "https://arxiv.org/abs/2308.11957"
MAX_LISTED_LABELS = 60
# Example of the Hub's page; its own sample, which stays where it is.
WIDGET = [{"example_title": "Speech", "src": "https://cdn-media.huggingface.co/speech_samples/sample1.flac"}]
# What the printed code applies to raw logits.
ACTIVATIONS = {"multi_label_classification": ".sigmoid()", "single_label_classification": ".softmax(-1)"}


def has_audioset_labels(config: CedConfig) -> bool:
    """Whether the classes are the 527 of AudioSet, with their names and in their order."""
    return _class_names(config) == list(AUDIOSET_LABELS)


def _class_names(config: CedConfig) -> list[str]:
    names: Any = config.id2label
    return [str(names[index]) for index in sorted(names)]


def published_size(config: CedConfig) -> str | None:
    """The name of the published model (`"ced-tiny"`, …) with exactly this configuration, or None."""
    shape = (config.depth, config.mlp_ratio, config.patch_size, config.n_mels, config.target_length, config.pooling)
    if shape != (12, 4, 16, 64, 1012, "mean"):
        return None
    width = {"embed_dim": config.embed_dim, "num_heads": config.num_heads}
    return next((name for name, size in CED_SIZES.items() if size == width), None)


def published_eval_results(config: CedConfig) -> list[EvalResult]:
    """
    The paper's result for the published model with this configuration, as an entry of the `model-index`; empty if there
    is none. Pass it to [`create_model_card`] only for the published weights.
    """
    size = published_size(config)
    if size is None or not has_audioset_labels(config):
        return []
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Audio tagging",
            dataset_type=AUDIOSET_DATASET,
            dataset_name="AudioSet",
            dataset_config="full",
            dataset_split="test",
            metric_type="mAP",
            metric_name="Mean average precision",
            metric_value=PUBLISHED_FIGURES[size].audioset,
            source_name="CED: Consistent ensemble distillation for audio tagging",
            source_url=PAPER_URL,
        )
    ]


def create_model_card(
    model_or_config: PreTrainedModel | CedConfig,
    *,
    model_id: str,
    source: str,
    base_model: str | None = None,
    eval_results: Sequence[EvalResult] = (),
    datasets: Sequence[str] | None = None,
    training_data: str | None = None,
    license: str = "apache-2.0",
) -> ModelCard:
    """
    Writes the model card of a CED classifier or encoder.

    Args:
        model_or_config (`CedModel`, `CedForAudioClassification` or `CedConfig`):
            The model. A configuration without `architectures` is treated as that of a classifier.
        model_id (`str`):
            Hub id or folder name for the example code.
        source (`str`):
            Origin of the weights, as one Markdown sentence.
        base_model (`str`, *optional*):
            Hub id of the model that this one was trained from.
        eval_results (`Sequence[EvalResult]`, *optional*):
            Results for the `model-index` and a table, by default none. See [`published_eval_results`].
        datasets (`Sequence[str]`, *optional*):
            Hub ids of the training data, by default AudioSet for a model with the classes of AudioSet or without head.
        training_data (`str`, *optional*):
            A Markdown paragraph on the training data, which replaces the default.
        license (`str`, *optional*, defaults to `"apache-2.0"`):
            Hub identifier of the licence of the weights.

    Returns:
        [`~huggingface_hub.ModelCard`]: the card; `card.save(path)` writes it, `card.data` is the metadata.

    Raises:
        `ValueError`: if `eval_results` are given for an encoder.
    """
    config: Any = model_or_config if isinstance(model_or_config, CedConfig) else model_or_config.config
    is_encoder = _is_encoder(model_or_config)
    if is_encoder and eval_results:
        raise ValueError("`eval_results` are not possible for an encoder, which has no classes.")
    on_audioset = is_encoder or has_audioset_labels(config)
    if datasets is None:
        datasets = [AUDIOSET_DATASET] if on_audioset else []
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="feature-extraction" if is_encoder else "audio-classification",
        tags=["ced", "audio", "feature-extraction" if is_encoder else "audio-tagging", *["audioset"] * on_audioset],
        widget=None if is_encoder else WIDGET,
        datasets=list(datasets) or None,
        metrics=sorted({result.metric_type for result in eval_results}) or None,
        base_model=base_model if base_model != model_id else None,
        model_name=model_id.split("/")[-1] if eval_results else None,
        eval_results=list(eval_results) or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE_PATH),
        model_id=model_id,
        title=model_id.split("/")[-1],
        source=source,
        base_model=data.base_model,
        license=license,
        training_data=training_data,
        is_encoder=is_encoder,
        has_audioset_labels=on_audioset,
        size=published_size(config),
        published=PUBLISHED_FIGURES,
        claims_published=bool(eval_results) and list(eval_results) == published_eval_results(config),
        results=eval_results,
        parameters=_in_millions(_count_parameters(model_or_config, is_encoder)),
        config=config,
        activation=ACTIVATIONS.get(config.problem_type, ""),
        seconds=f"{config.target_length * config.hop_size / 16000:.1f}",
        labels=_listed_labels(config),
        paper_url=PAPER_URL,
    )


def _is_encoder(model_or_config: PreTrainedModel | CedConfig) -> bool:
    if isinstance(model_or_config, CedConfig):
        return (model_or_config.architectures or [])[:1] == [CedModel.__name__]
    return isinstance(model_or_config, CedModel)


def _count_parameters(model_or_config: PreTrainedModel | CedConfig, is_encoder: bool) -> int:
    if isinstance(model_or_config, PreTrainedModel):
        return model_or_config.num_parameters()
    architecture: Any = CedModel if is_encoder else CedForAudioClassification
    with torch.device("meta"):  # counts without allocating
        return architecture(model_or_config).num_parameters()


def _in_millions(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M" if parameters < 1e6 else f"{parameters / 1e6:.1f} M"


def _listed_labels(config: CedConfig) -> str:
    """The first class names as inline code in Markdown."""
    names = [re.sub(r"[`\s]+", " ", name) for name in _class_names(config)]
    rest = len(names) - MAX_LISTED_LABELS
    listed = ", ".join(f"`{name}`" for name in names[:MAX_LISTED_LABELS])
    return f"{listed} and {rest} more (`config.id2label`)" if rest > 0 else listed
