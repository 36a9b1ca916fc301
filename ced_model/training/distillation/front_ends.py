# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The input of a teacher for a chunk and a seed, for each kind of front end.

The masks of a seed are drawn for CED's log-mel. For models with this front end, they are used directly. For other mel
spectrograms, their bounds are converted to seconds and hertz, and they are filled with the mean of the features. Inputs
of waveform models are not masked.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from transformers import ASTFeatureExtractor, SeamlessM4TFeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from ...audio import SAMPLING_RATE
from ...feature_extraction_ced import CedFeatureExtractor
from .augmentation import Augmentation, augmented_log_mel, mask_bounds, one_thread, shift_waveform

CED_FRONT_END = CedFeatureExtractor()  # of the published models; the masks are drawn for it

Features = dict[str, torch.Tensor]
FeatureExtractor = Any  # a SequenceFeatureExtractor, but typed loosely, since that class declares no `__call__`


class MaskRegion(NamedTuple):
    """
    Masks independent of the front end: all frequencies from `start_s` to `stop_s` of the shifted waveform, and all
    times from `low_hz` to `high_hz`. A mask of width 0 has equal bounds.
    """

    start_s: float
    stop_s: float
    low_hz: float
    high_hz: float


class MelGrid(NamedTuple):
    """
    Positions of the features of a mel spectrogram in time and frequency.

    Attributes:
        frame_s: Distance between frames.
        first_s: Centre of the first frame.
        mel_hz: Centres of the mel bins, of shape `(mels,)`.
        mels_first: Whether the features are of shape `(mels, frames)`, not `(frames, mels)`.
    """

    frame_s: float
    first_s: float
    mel_hz: np.ndarray
    mels_first: bool


class FrontEnd:
    """
    Computes the input of a model. It is picklable, for the workers of a `DataLoader`.

    Attributes:
        masks: How masks are applied, for the manifest.
        needs_equal_lengths: Whether all chunks of a batch must have the same length.
    """

    masks: str
    needs_equal_lengths = True  # models without an attention mask would treat padding as audio

    def __call__(self, waveform: np.ndarray, seed: int, augmentation: Augmentation) -> Features:
        """The features of a chunk, as a batch of one."""
        raise NotImplementedError

    def collate(self, features: list[Features]) -> Features:
        """Joins batches to one."""
        return {name: torch.cat([feature[name] for feature in features]) for name in features[0]}


@dataclass(frozen=True, eq=False)
class CedFrontEnd(FrontEnd):
    """CED's log-mel, the same as that of the student, with an `attention_mask` for clips of different lengths."""

    extractor: CedFeatureExtractor
    masks = "on the log-mel"
    needs_equal_lengths = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CedFrontEnd)

    def __call__(self, waveform: np.ndarray, seed: int, augmentation: Augmentation) -> Features:
        return {"input_values": augmented_log_mel(waveform, seed, augmentation, self.extractor)[None]}

    def collate(self, features: list[Features]) -> Features:
        return collate_log_mels([feature["input_values"][0] for feature in features], self.extractor.padding_value)


@dataclass(frozen=True, eq=False)
class SpectrogramFrontEnd(FrontEnd):
    """A different mel spectrogram, with masks at the same times and frequencies."""

    extractor: FeatureExtractor
    grid: MelGrid
    masks = "by their bounds in seconds and hertz, on the model's own spectrogram"

    def __call__(self, waveform: np.ndarray, seed: int, augmentation: Augmentation) -> Features:
        shifted = shift_waveform(waveform, seed, augmentation)
        features = _extract(self.extractor, shifted)
        name = self.extractor.model_input_names[0]
        region = mask_region(seed, augmentation, len(waveform))
        features[name] = mask_spectrogram(features[name], region, self.grid, len(waveform) / SAMPLING_RATE)
        return features


@dataclass(frozen=True)
class WaveformFrontEnd(FrontEnd):
    """For models of waveforms, or with unknown features: shifted, but not masked."""

    extractor: FeatureExtractor = None  # without one, the features are `waveforms`
    masks = "none: shifted only"

    def __call__(self, waveform: np.ndarray, seed: int, augmentation: Augmentation) -> Features:
        shifted = shift_waveform(waveform, seed, augmentation)
        if self.extractor is None:
            return {"waveforms": torch.from_numpy(shifted)[None]}
        return _extract(self.extractor, shifted)


def choose_front_end(extractor: FeatureExtractor) -> FrontEnd:
    """The front end for a model's feature extractor."""
    is_ced = isinstance(extractor, CedFeatureExtractor)
    if is_ced and front_end_parameters(extractor) == front_end_parameters(CED_FRONT_END):
        return CedFrontEnd(extractor)
    grid = mel_grid(extractor)
    return WaveformFrontEnd(extractor) if grid is None else SpectrogramFrontEnd(extractor, grid)


def front_end_parameters(extractor: CedFeatureExtractor) -> dict[str, Any]:
    """The parameters of the log-mel, with the names of the feature extractor; `f_max` in Hz even if it is None."""
    names = ("sampling_rate", "feature_size", "n_fft", "win_size", "hop_size", "center", "f_min", "f_max")
    parameters = {name: getattr(extractor, name) for name in names}
    if parameters["f_max"] is None:
        parameters["f_max"] = extractor.sampling_rate / 2
    return parameters


def collate_log_mels(log_mels: list[torch.Tensor], padding_value: float = 0.0) -> Features:
    """
    Collates log-mels of shape `(mels, frames)` to a batch for a CED model.

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


def mask_region(seed: int, augmentation: Augmentation, num_samples: int) -> MaskRegion:
    """The masks of a seed for a chunk of `num_samples` at 16 kHz, in seconds and hertz."""
    ced = CED_FRONT_END
    num_frames = ced.num_frames(max(num_samples, ced.min_samples))
    bounds = mask_bounds(seed, augmentation, num_frames, ced.feature_size)
    # A frame or bin extends halfway to its neighbours; the centre of bin m is at point m + 1 of the filterbank.
    frame_s = ced.hop_size / ced.sampling_rate
    start_s, stop_s = (max(0.0, (frame - 0.5) * frame_s) for frame in (bounds.time_start, bounds.time_stop))
    top_mel = hertz_to_mel(front_end_parameters(ced)["f_max"], "htk")
    low_hz, high_hz = (
        float(mel_to_hertz(top_mel * (mel_bin + 0.5) / (ced.feature_size + 1), "htk"))
        for mel_bin in (bounds.freq_start, bounds.freq_stop)
    )
    return MaskRegion(start_s, stop_s, low_hz, high_hz)


def mask_spectrogram(features: torch.Tensor, region: MaskRegion, grid: MelGrid, duration_s: float) -> torch.Tensor:
    """
    A copy of a spectrogram in which frames and bins with centres in `region` are masked.

    Args:
        features: Features of shape `(1, frames, mels)`, `(1, mels, frames)`, or `(1, frames / n, n · mels)` with n
            stacked frames.
        duration_s: Duration of the audio; later frames are padding, and excluded from the mean that fills the masks.
    """
    num_mels = len(grid.mel_hz)
    masked = features.clone(memory_format=torch.contiguous_format)
    frames = masked[0].T if grid.mels_first else masked[0].view(-1, num_mels)  # a view of shape (frames, mels)
    times = grid.first_s + grid.frame_s * np.arange(len(frames))
    # Up to the end of a frame's window, or its middle if windows are padded.
    is_whole = times + grid.first_s < duration_s + 1e-5
    mean = float(np.mean(frames[torch.from_numpy(is_whole)].numpy(), dtype=np.float64))
    frames[torch.from_numpy((region.start_s <= times) & (times < region.stop_s))] = mean
    frames[:, torch.from_numpy((region.low_hz <= grid.mel_hz) & (grid.mel_hz < region.high_hz))] = mean
    return masked


def mel_grid(extractor: FeatureExtractor) -> MelGrid | None:
    """Positions of the features of a feature extractor in time and frequency; None if they are not known."""
    rate = extractor.sampling_rate
    if isinstance(extractor, CedFeatureExtractor):
        f_max = front_end_parameters(extractor)["f_max"]
        mel_hz = _mel_centres(extractor.feature_size, extractor.f_min, f_max, "htk")
        first = 0 if extractor.center else extractor.n_fft / 2
        return MelGrid(extractor.hop_size / rate, first / rate, mel_hz, mels_first=True)
    if isinstance(extractor, ASTFeatureExtractor):  # Kaldi's filterbank: 25 ms every 10 ms, from 20 Hz
        return MelGrid(0.01, 0.0125, _mel_centres(extractor.num_mel_bins, 20, rate // 2, "kaldi"), mels_first=False)
    if isinstance(extractor, SeamlessM4TFeatureExtractor):  # the same in samples at 16 kHz; it stacks frames
        mel_hz = _mel_centres(extractor.num_mel_bins, 20, rate // 2, "kaldi")
        return MelGrid(160 / rate, 200 / rate, mel_hz, mels_first=False)
    if isinstance(extractor, WhisperFeatureExtractor):
        mel_hz = _mel_centres(extractor.feature_size, 0, 8000, "slaney")
        return MelGrid(extractor.hop_length / rate, 0.0, mel_hz, mels_first=True)
    return None


def _mel_centres(num_mels: int, low_hz: float, high_hz: float, mel_scale: str) -> np.ndarray:
    bounds = hertz_to_mel(float(low_hz), mel_scale), hertz_to_mel(float(high_hz), mel_scale)
    return np.asarray(mel_to_hertz(np.linspace(*bounds, num_mels + 2), mel_scale))[1:-1]


def _extract(extractor: FeatureExtractor, waveform: np.ndarray) -> Features:
    """The output of a feature extractor for a waveform at 16 kHz, as a batch of one."""
    rate = extractor.sampling_rate
    if rate != SAMPLING_RATE:
        waveform = soxr.resample(waveform, SAMPLING_RATE, rate, quality="HQ")
    with one_thread():
        return dict(extractor(waveform, sampling_rate=rate, return_tensors="pt"))
