# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The module that is exported: waveforms or mel spectrograms to probabilities and embeddings."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..feature_extraction_ced import CedFeatureExtractor
from ..modeling_ced import CedForAudioClassification
from .front_end import LogMel

# What makes probabilities of logits, by the configuration's `problem_type`.
ACTIVATIONS = {
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
    "regression": "none",
}


class TaggingGraph(nn.Module):
    """
    A classifier with its front end, on the CPU in float32 and evaluation mode.

    Args:
        model (`CedForAudioClassification`):
            The classifier; it is copied.
        feature_extractor (`CedFeatureExtractor`, *optional*):
            The front end. Without it the graph takes log-mel spectrograms.
        with_embeddings (`bool`, *optional*, defaults to `True`):
            Whether embeddings are the second output.
    """

    def __init__(
        self,
        model: CedForAudioClassification,
        feature_extractor: CedFeatureExtractor | None = None,
        with_embeddings: bool = True,
    ) -> None:
        super().__init__()
        self.front_end = None if feature_extractor is None else LogMel(feature_extractor)
        self.model = copy.deepcopy(model).cpu().float().eval()
        self.model.set_attn_implementation("sdpa")
        self.model.requires_grad_(False)
        self.activation = ACTIVATIONS[str(model.config.problem_type)]
        self.with_embeddings = with_embeddings

    def forward(
        self, waveform: torch.Tensor | None = None, input_values: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            waveform (`torch.Tensor` of shape `(batch_size, samples)`, *optional*):
                Mono audio of at least 16 and at most `target_length` frames.
            input_values (`torch.Tensor` of shape `(batch_size, n_mels, frames)`, *optional*):
                Log-mel spectrograms in dB, in place of `waveform` for a graph without a front end.

        Returns:
            `dict`: `probabilities` of shape `(batch_size, num_labels)` and `embeddings` of shape
            `(batch_size, hidden_size)`.
        """
        values = input_values if self.front_end is None else self.front_end(waveform)
        outputs = self.model.encoder(values, return_dict=True)
        logits = self.model._classify(outputs, values, None)
        probabilities = logits
        if self.activation != "none":
            probabilities = logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=-1)
        results = {"probabilities": probabilities}
        if self.with_embeddings:
            results["embeddings"] = outputs.pooler_output
        return results


class InSinglePrecision(nn.Module):
    """A parametrization: a weight stored in half precision is computed with in single precision."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.float()


def store_in_half(graph: TaggingGraph) -> None:
    """Stores the weights of linear layers and of the patch embedding, which are nearly all, in half precision."""
    for module in list(graph.model.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight = nn.Parameter(module.weight.half(), requires_grad=False)
            parametrize.register_parametrization(module, "weight", InSinglePrecision(), unsafe=True)
