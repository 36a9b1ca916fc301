# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Feature extractor class for CED: waveform to log-mel spectrogram."""

from .custom_code import OwnCode, drop_absent_code

# isort: split

import math
import os
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import PaddingStrategy, TensorType, logging

from .log_mel import AMIN, TOP_DB, FrontEnd, hann_window, log_mel, mel_filters
from .model_settings import check_front_end, front_end_of

logger = logging.get_logger(__name__)

# Scale and offset of the PCM formats that audio files use.
PCM_RANGES = {
    torch.int8: (2.0**7, 0.0),
    torch.uint8: (2.0**7, 2.0**7),
    torch.int16: (2.0**15, 0.0),
    torch.int32: (2.0**31, 0.0),
}


class CedFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Constructs a CED feature extractor, which turns mono waveforms into log-mel spectrograms in decibels.

    Each clip is processed on its own: values more than 120 dB below its maximum are raised to that level. Clips of
    different lengths are padded after that, in mel frames, and an `attention_mask` marks the padding.

    Args:
        feature_size (`int`, *optional*, defaults to 64):
            Number of mel bins.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Sampling rate of the waveforms in hertz (Hz).
        padding_value (`float`, *optional*, defaults to 0.0):
            Value of padded mel frames. With the `attention_mask`, the model ignores them.
        return_attention_mask (`bool`, *optional*, defaults to `False`):
            Whether to always return an `attention_mask`. With `False` it is returned only if a clip was padded.
        f_min (`float`, *optional*, defaults to 0):
            Lowest frequency of the mel filterbank in Hz.
        f_max (`float`, *optional*):
            Highest frequency of the mel filterbank in Hz, by default half the sampling rate.
        n_fft (`int`, *optional*, defaults to 512):
            Size of the Fourier transform in samples.
        win_size (`int`, *optional*, defaults to 512):
            Length of the periodic Hann window in samples.
        hop_size (`int`, *optional*, defaults to 160):
            Distance between frames in samples (10 ms).
        center (`bool`, *optional*, defaults to `True`):
            Whether frames are centred on multiples of `hop_size`, with reflection at both ends of the clip.

    Example:

    ```python
    >>> import numpy as np
    >>> from ced_model import CedFeatureExtractor

    >>> feature_extractor = CedFeatureExtractor()
    >>> clips = [np.zeros(16000), np.zeros(8000)]  # one second and half a second
    >>> inputs = feature_extractor(clips, sampling_rate=16000)
    >>> inputs.input_values.shape
    torch.Size([2, 64, 101])

    >>> inputs.attention_mask.sum(dim=-1)
    tensor([101,  51])
    ```
    """

    model_input_names = ["input_values", "attention_mask"]
    _auto_class = OwnCode("AutoFeatureExtractor")

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        return_attention_mask: bool = False,
        f_min: float = 0,
        f_max: float | None = None,
        n_fft: int = 512,
        win_size: int = 512,
        hop_size: int = 160,
        center: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        self.f_min = f_min
        self.f_max = f_max
        self.n_fft = n_fft
        self.win_size = win_size
        self.hop_size = hop_size
        self.center = center
        check_front_end(vars(self))

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> list[str]:
        """Saves as [`~FeatureExtractionMixin.save_pretrained`] does, with its code if that was saved."""
        drop_absent_code(self, save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def front_end(self) -> FrontEnd:
        """The front end's parameters, for the functions of `log_mel.py`."""
        return front_end_of(vars(self))

    @classmethod
    def from_front_end(cls, front_end: FrontEnd) -> "CedFeatureExtractor":
        """Creates a feature extractor with these parameters."""
        fields = vars(front_end).copy()
        return cls(feature_size=fields.pop("n_mels"), **fields)

    def num_frames(self, num_samples: int) -> int:
        """Number of mel frames of a clip of `num_samples` samples, before any padding."""
        return self.front_end.num_frames(num_samples)

    @property
    def min_samples(self) -> int:
        """Number of samples for one patch of 16 frames, 2,400 by default; shorter clips are zero-padded to it."""
        return self.front_end.min_samples

    def log_mel(self, waveform: torch.Tensor) -> torch.Tensor:
        """
        Log-mel spectrogram of one clip, without checks, padding or gradient. Computed by NumPy on a CPU, and by PyTorch
        on other devices.

        Args:
            waveform (`torch.Tensor` of shape `(samples,)`):
                Mono audio, float32 in [-1, 1], longer than half a window.

        Returns:
            `torch.Tensor` of shape `(feature_size, frames)`: decibels, float32, on the waveform's device. Values more
            than 120 dB below the maximum are raised to that level.
        """
        if waveform.device.type == "cpu":
            return torch.from_numpy(log_mel(waveform.detach().numpy(), self.front_end))
        return self._torch_log_mel(waveform)

    @torch.no_grad()
    def _torch_log_mel(self, waveform: torch.Tensor) -> torch.Tensor:
        """[`~ced_model.log_mel.log_mel`] in PyTorch, on the waveform's device."""
        front_end, device = self.front_end, waveform.device
        window, filters = (torch.from_numpy(values(front_end)).to(device) for values in (hann_window, mel_filters))
        if front_end.center:
            half = front_end.n_fft // 2
            waveform = torch.nn.functional.pad(waveform[None], (half, half), mode="reflect")[0]
        frames = waveform.unfold(0, front_end.n_fft, front_end.hop_size)
        with torch.autocast(device.type, enabled=False):  # decibels need more than half precision
            power = torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(dim=-1)
            decibels = 10.0 * torch.log10((power @ filters).clamp(min=AMIN))
        return decibels.clamp(min=decibels.amax() - TOP_DB).T

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | list[float] | list[np.ndarray] | list[torch.Tensor] | list[list[float]],
        sampling_rate: int | None = None,
        padding: bool | str | PaddingStrategy | None = None,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = "pt",
        device: str | torch.device | None = None,
    ) -> BatchFeature:
        """
        Computes the log-mel spectrograms of one or several clips.

        Args:
            raw_speech (`np.ndarray`, `torch.Tensor`, `list[float]` or a list of these):
                Mono: one clip of shape `(samples,)`, several of shape `(clips, samples)`, or a list of clips of any
                lengths. Floats have full scale 1.0; 8-, 16- and 32-bit integers are PCM.
            sampling_rate (`int`, *optional*):
                Sampling rate of `raw_speech` in Hz, which must be that of the feature extractor. Without it, a warning
                is logged.
            padding (`bool`, `str` or [`~utils.PaddingStrategy`], *optional*):
                `True` or `"longest"` pads to the longest clip of the batch, `"max_length"` to `max_length`, `False` or
                `"do_not_pad"` not at all. By default `"max_length"` if `max_length` is given, else `"longest"`.
            max_length (`int`, *optional*):
                Length in samples to pad or truncate to.
            truncation (`bool`, *optional*, defaults to `False`):
                Whether to cut clips to their first `max_length` samples.
            pad_to_multiple_of (`int`, *optional*):
                Pads clips further, to a multiple of this number of frames.
            return_attention_mask (`bool`, *optional*):
                Whether to return the `attention_mask`, by default if a clip was padded.
            return_tensors (`str` or [`~utils.TensorType`], *optional*, defaults to `"pt"`):
                `"pt"` returns `torch.Tensor`, `"np"` `np.ndarray`, and `None` a list with one `np.ndarray` per clip.
            device (`str` or `torch.device`, *optional*):
                Device to compute on and to return tensors on, by default that of each clip.

        Returns:
            [`BatchFeature`] with

            - **input_values** -- log-mel spectrograms in dB, float32 of shape `(clips, feature_size, frames)`. A clip
              of `n` samples has `1 + n // hop_size` frames. Clips shorter than one patch (2,400 samples) are first
              zero-padded to this length; these zeros count as audio.
            - **attention_mask** -- int64 of shape `(clips, frames)`, 1 for frames of the clip and 0 for padding.

        Raises:
            `ValueError`: if the sampling rate is a different one, or a clip is not a mono waveform of finite samples.
        """
        if sampling_rate is None:
            logger.warning_once(
                f"Pass `sampling_rate` to `{type(self).__name__}()`: without it, audio that is not sampled at"
                f" {self.sampling_rate} Hz gives wrong results silently."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"The audio is sampled at {sampling_rate} Hz, but {type(self).__name__} needs {self.sampling_rate} Hz."
                f" Resample it first, for example with `soxr.resample(waveform, {sampling_rate}, {self.sampling_rate})`"
                f" or `torchaudio.functional.resample(waveform, {sampling_rate}, {self.sampling_rate})`."
            )
        if truncation and max_length is None:
            raise ValueError("`truncation=True` needs a `max_length` in samples.")
        for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value is not None and (not isinstance(value, (int, np.integer)) or value < 1):
                raise ValueError(f"`{name}` must be a whole number, at least 1, got {value!r}.")
        if padding is None:
            padding = "longest" if max_length is None else "max_length"
        strategy = self._get_padding_strategies(padding=padding, max_length=max_length)

        waveforms = [_to_waveform(clip, index, device) for index, clip in enumerate(_split_clips(raw_speech))]
        if truncation:
            waveforms = [waveform[:max_length] for waveform in waveforms]
        features = [self.log_mel(_pad(waveform, self.min_samples)) for waveform in waveforms]
        for index, feature in enumerate(features):
            if not math.isfinite(feature.amax().item()):
                raise ValueError(f"Clip {index} has samples too large for 32-bit floats; scale it to [-1, 1].")

        lengths = targets = [feature.shape[-1] for feature in features]
        if strategy != PaddingStrategy.DO_NOT_PAD:
            longest, multiple = max(lengths), pad_to_multiple_of or 1
            if strategy == PaddingStrategy.MAX_LENGTH and max_length is not None:
                longest = max(longest, self.num_frames(max(max_length, self.min_samples)))
            targets = [-(-longest // multiple) * multiple] * len(lengths)

        data: dict[str, list[Any]] = {}
        padded = zip(features, targets, strict=True)
        data["input_values"] = [_pad(feature, target, self.padding_value) for feature, target in padded]
        if return_attention_mask is None:
            return_attention_mask = self.return_attention_mask or targets != lengths
        if return_attention_mask:
            masks = (feature.new_ones(feature.shape[-1], dtype=torch.long) for feature in features)
            data["attention_mask"] = [_pad(mask, target) for mask, target in zip(masks, targets, strict=True)]
        if return_tensors != "pt":
            data = {key: [tensor.cpu().numpy() for tensor in tensors] for key, tensors in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def pad(self, processed_features: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """
        Pads clips to a batch as [`~SequenceFeatureExtractor.pad`] does, with lengths in frames. `Trainer` makes its
        batches with this method.

        Args:
            processed_features (`BatchFeature`, `dict` of lists or a list of these per clip):
                `input_values` of shape `(feature_size, frames)` or `(1, feature_size, frames)` per clip, which become
                `(clips, feature_size, frames)`. Labels of shape `(steps, classes)`, for
                [`CedForAudioFrameClassification`], are padded with zeros, which the `attention_mask` excludes. Other
                fields are kept. By default the `attention_mask` is returned if clips differ in length.
        """
        if isinstance(processed_features, (list, tuple)):
            processed_features = {key: [row[key] for row in processed_features] for key in processed_features[0].keys()}
        features = dict(processed_features)
        values = [np.asarray(clip) for clip in features.get("input_values", [])]
        if not values or any(clip.ndim < 2 or clip.shape[-2] != self.feature_size for clip in values):
            return super().pad(processed_features, *args, **kwargs)  # not mel spectrograms
        # The base class pads the first dimension.
        features["input_values"] = [clip.reshape(clip.shape[-2:]).T for clip in values]
        labels = [np.asarray(label) for label in features.get("labels", [])]
        if len({len(label) for label in labels if label.ndim == 2}) > 1:
            longest = max(map(len, labels))
            features["labels"] = [np.pad(label, ((0, longest - len(label)), (0, 0))) for label in labels]
        is_masked = self.return_attention_mask or len({clip.shape[-1] for clip in values}) > 1
        if "attention_mask" in features:
            is_masked, masks = True, features["attention_mask"]
            features["attention_mask"] = [np.asarray(mask).reshape(-1) for mask in masks]
        if kwargs.get("return_attention_mask") is None:
            kwargs["return_attention_mask"] = is_masked
        batch = super().pad(features, *args, **kwargs)
        padded = batch["input_values"]
        batch["input_values"] = [clip.T for clip in padded] if isinstance(padded, list) else padded.swapaxes(1, 2)
        return batch


def _pad(values: torch.Tensor, length: int, value: float = 0.0) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, max(0, length - values.shape[-1])), value=value)


def _split_clips(raw_speech: Any) -> list[Any]:
    """Splits `raw_speech` (one clip, an array of clips or a list of clips) into clips."""
    if isinstance(raw_speech, (np.ndarray, torch.Tensor)):
        is_batch = raw_speech.ndim > 1
        if raw_speech.ndim == 2 and raw_speech.shape[1] <= 8 < raw_speech.shape[0]:
            raise ValueError(
                f"`raw_speech` of shape {tuple(raw_speech.shape)} would be {raw_speech.shape[0]} clips of"
                f" {raw_speech.shape[1]} sample(s), but looks like (samples, channels). Average the channels first."
            )
    elif isinstance(raw_speech, (list, tuple)):
        # A list of numbers, even zero-dimensional arrays, is one clip.
        first = raw_speech[0] if raw_speech else None
        is_batch = isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) > 0
    else:
        raise ValueError(
            f"`raw_speech` is a {type(raw_speech).__name__}: it must be a waveform (a NumPy array, a tensor or a list"
            " of floats) or a list of waveforms."
        )
    if is_batch and len(raw_speech) == 0:
        raise ValueError("`raw_speech` holds no clips.")
    return list(raw_speech) if is_batch else [raw_speech]


def _to_waveform(clip: Any, index: int, device: str | torch.device | None) -> torch.Tensor:
    """Converts one clip to a float32 tensor of shape `(samples,)`. Errors name the clip by its `index`."""
    if isinstance(clip, torch.Tensor) and (clip.layout != torch.strided or clip.device.type == "meta"):
        raise ValueError(f"Clip {index} is a sparse, nested or meta tensor: convert it to a dense one, with samples.")
    if np.ma.is_masked(clip):
        raise ValueError(f"Clip {index} has masked samples: fill them, for example with `clip.filled(0)`.")
    if not isinstance(clip, torch.Tensor):
        try:
            array = np.asarray(clip)
            # Copied: torch supports neither foreign byte orders nor negative strides, and warns about read-only memory.
            clip = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", ndmin=1))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"Clip {index} is not a waveform of numbers: {error}") from None
    clip = clip.detach().to(device) if device is not None else clip.detach()
    if clip.ndim == 2 and len(clip) == 1:  # what file loaders return for mono files
        clip = clip[0]
    if clip.ndim != 1:
        raise ValueError(
            f"Clip {index} has shape {tuple(clip.shape)}: each clip must be mono, of shape (samples,). Average the"
            " channels of multichannel audio first."
        )
    if clip.numel() == 0:
        raise ValueError(f"Clip {index} is empty: it has no samples.")
    if clip.dtype in PCM_RANGES:
        scale, offset = PCM_RANGES[clip.dtype]
        return (clip.to(torch.float32) - offset) / scale
    if not clip.is_floating_point():
        raise ValueError(
            f"Clip {index} has type {clip.dtype}, which is not a PCM dtype. Convert it to int16 or int32 PCM, or to"
            " floats with full scale 1.0."
        )
    waveform = clip.to(torch.float32)
    # The sum is ten times cheaper to check than each sample. It is finite unless a sample is not, or is huge.
    if not math.isfinite(waveform.sum().item()) and not torch.isfinite(waveform).all():
        raise ValueError(f"Clip {index} holds NaN or infinite samples; remove them before tagging.")
    return waveform


__all__ = ["CedFeatureExtractor"]
