# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The input of a teacher for a chunk under a seed.

CED models get the masked log-mel, the same as the student. Other models get the shifted waveform through their own
feature extractor, without masks: they see all of what the student sees a part of.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch

from ...audio import SAMPLING_RATE
from ...feature_extraction_ced import CedFeatureExtractor
from .augmentation import Augmentation, augmented_log_mel, one_thread, shift_waveform

CED_FRONT_END = CedFeatureExtractor()  # of the published models; the masks are drawn for it

Features = dict[str, torch.Tensor]
FeatureExtractor = Any  # a SequenceFeatureExtractor, which by its type can neither be called nor has what models need


class FrontEnd:
    """
    Makes the input of a model. It is picklable, so that the workers of a `DataLoader` can have it.

    Attributes:
        masks: How masks are applied, for the manifest.
        needs_equal_lengths: Whether a batch must consist of chunks of one length.
    """

    masks: str
    needs_equal_lengths = True  # models without an attention mask would take padding for audio

    def __call__(self, waveform: np.ndarray, seed: int, augmentation: Augmentation) -> Features:
        """The features of a chunk, as a batch of one."""
        raise NotImplementedError

    def collate(self, features: list[Features]) -> Features:
        """One batch of several."""
        return {name: torch.cat([feature[name] for feature in features]) for name in features[0]}


@dataclass(frozen=True, eq=False)
class CedFrontEnd(FrontEnd):
    """CED's log-mel, exactly as the student gets it; of clips of different lengths with an `attention_mask`."""

    extractor: CedFeatureExtractor
    masks = "on the log-mel"
    needs_equal_lengths = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CedFrontEnd)

    def __call__(self, waveform: np.ndarray, seed: int, augmentation: Augmentation) -> Features:
        return {"input_values": augmented_log_mel(waveform, seed, augmentation, self.extractor)[None]}

    def collate(self, features: list[Features]) -> Features:
        return collate_log_mels([feature["input_values"][0] for feature in features], self.extractor.padding_value)


@dataclass(frozen=True)
class OtherFrontEnd(FrontEnd):
    """The shifted waveform, for callables as `waveforms`, for models through their feature extractor."""

    extractor: FeatureExtractor = None
    masks = "none: shifted only"

    def __call__(self, waveform: np.ndarray, seed: int, augmentation: Augmentation) -> Features:
        shifted = shift_waveform(waveform, seed, augmentation)
        if self.extractor is None:
            return {"waveforms": torch.from_numpy(shifted)[None]}
        rate = self.extractor.sampling_rate
        if rate != SAMPLING_RATE:
            shifted = soxr.resample(shifted, SAMPLING_RATE, rate, quality="HQ")
        with one_thread():
            return dict(self.extractor(shifted, sampling_rate=rate, return_tensors="pt"))


def choose_front_end(extractor: FeatureExtractor) -> FrontEnd:
    """The front end for a model's feature extractor."""
    is_ced = isinstance(extractor, CedFeatureExtractor)
    if is_ced and front_end_parameters(extractor) == front_end_parameters(CED_FRONT_END):
        return CedFrontEnd(extractor)
    return OtherFrontEnd(extractor)


def front_end_parameters(extractor: CedFeatureExtractor) -> dict[str, Any]:
    """What decides the log-mel, by the names of the feature extractor; `f_max` in Hz even if it is stored as null."""
    names = ("sampling_rate", "feature_size", "n_fft", "win_size", "hop_size", "center", "f_min", "f_max")
    parameters = {name: getattr(extractor, name) for name in names}
    if parameters["f_max"] is None:
        parameters["f_max"] = extractor.sampling_rate / 2
    return parameters


def collate_log_mels(log_mels: list[torch.Tensor], padding_value: float = 0.0) -> Features:
    """
    Log-mels of shape `(mels, frames)` as a batch for a CED model.

    Returns:
        `input_values` of shape `(batch, mels, frames)` and, if the clips differ in length, `attention_mask`, int64 of
        shape `(batch, frames)`.
    """
    lengths = torch.tensor([log_mel.shape[1] for log_mel in log_mels])
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return {"input_values": torch.stack(log_mels)}
    padded = [torch.nn.functional.pad(mel, (0, longest - mel.shape[1]), value=padding_value) for mel in log_mels]
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"input_values": torch.stack(padded), "attention_mask": mask}
