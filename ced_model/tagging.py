# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""AudioTagger: files, folders, hours of recording and live audio → tags, timelines and events."""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from .audio import MIX, AudioError, AudioInput, check_channel, describe, is_single_input, read_blocks
from .bundled import bundled_folder
from .configuration_ced import CedConfig
from .evaluation_mode import check_weights, in_evaluation_mode
from .feature_extraction_ced import CedFeatureExtractor
from .findings import (
    Event,
    StreamUpdate,
    Tag,
    TagResult,
    Timeline,
    check_event_options,
    check_number,
    check_scores,
    find_label,
)
from .model_folder import open_model
from .forking import after_fork, is_forked
from .modeling_ced import CedForAudioClassification
from .runtimes.exported import ExportedModel
from .runtimes.formats import TORCH, choose_for_tagger
from .scheduling import (
    InputEnd,
    Window,
    WindowScores,
    check_peaks,
    cut_windows,
    score_windows,
    without_variables,
)
from .streaming import stream_blocks

logger = logging.get_logger(__name__)

CLIP_WINDOW_S = 10.0  # long clips are tagged in windows of the length that the published models were trained on
TIMELINE_WINDOW_S = 2.0
TOP_K = 5

MAX_MAGNITUDE = float(np.finfo(np.float32).max) ** 0.5  # of a spectrum: its square must still be a float32
MAX_WAITING = 10_000  # inputs and windows whose results are held back by a slow input before them: 20 MB of scores


class _Input:
    """
    The windows of one input as they come in, in any order.

    Their bounds in samples, `(windows, 2)`, and their scores, `(windows, classes)`, grow in place, so that those of a
    long recording are never in memory twice.
    """

    def __init__(self) -> None:
        self.spans = np.zeros((0, 2), np.int64)
        self.scores = np.zeros((0, 0), np.float32)
        self.windows = 0
        self.scored_to = 0
        self.not_finite: WindowScores | None = None  # the earliest of those with scores that are no finite numbers
        self.end: InputEnd | None = None

    def add(self, window: WindowScores) -> int:
        """Returns the samples that `window` adds behind all windows before it; what is overtaken counts as scored."""
        if window.position >= len(self.spans):
            self._resize(max(window.position + 1, len(self.spans) * 5 // 4), len(window.scores))
        end = window.start + window.samples
        self.spans[window.position] = window.start, end
        self.scores[window.position] = window.scores
        self.windows += 1
        if not np.isfinite(window.scores).all() and (self.not_finite is None or window.start < self.not_finite.start):
            self.not_finite = window
        before, self.scored_to = self.scored_to, max(self.scored_to, end)
        return self.scored_to - before

    def _resize(self, windows: int, classes: int) -> None:
        self.spans.resize((windows, 2), refcheck=False)
        self.scores.resize((windows, classes), refcheck=False)

    @property
    def is_complete(self) -> bool:
        return self.end is not None and self.windows == self.end.windows

    def finish(self, end: InputEnd) -> "_Input":
        """Drops the room for more windows."""
        self.end = end
        self._resize(self.windows, self.scores.shape[1])
        return self

    @property
    def error(self) -> Exception | None:
        return None if self.end is None else self.end.error

    def average(self, how: str) -> np.ndarray:
        """Scores of the clip from those of its windows: the mean weighted by their length, or the maximum."""
        if len(self.scores) == 1:
            return self.scores[0]
        if how == "max":
            return self.scores.max(axis=0)
        weights = (self.spans[:, 1] - self.spans[:, 0]).astype(np.float64)
        return (weights @ self.scores / weights.sum()).astype(np.float32)


class AudioTagger:
    """
    Tags audio with a CED model.

    Clips of up to `target_length` frames (10.12 s for the published models) are tagged in one piece. Longer ones are
    covered by windows of 10 s without overlap, of which the last keeps its own length; a clip's scores are the mean of
    its windows' weighted by their duration (or their maximum). This differs from the model's own chunking, which fills
    the last chunk up with zeros and gives it the same weight as the others.

    Taggers work in forked processes too, as those of `multiprocessing`, `DataLoader` and `Dataset.map`, where each clip
    is computed by one thread; OpenVINO does not, once the parent process has used it.

    Args:
        model: a classification model, by default ced-nano, which is a part of this package. It is computed in
            evaluation mode, and left in the mode that it is in.
        feature_extractor: the front end that goes with it, by default the one that the model's configuration describes.
        num_threads: CPU threads to use, by default as many as PyTorch uses.
        batch_size: windows that are computed together at most, by default 4 on a CPU, where more of them no longer fit
            into the cache, and 32 elsewhere.
        runtime: what computes the model: `"torch"`, or `"onnx"` or `"openvino"` on a CPU. The model is exported once,
            with its weights as they are now, and the export is kept; see the page on other runtimes.
        quantize: `"int8"` computes the transformer blocks in 8-bit integers; not with torch.

    Raises:
        ValueError: for another kind of model, one with weights that are NaN or infinite, or options that are not
            possible or exclude each other.
    """

    def __init__(
        self,
        model: CedForAudioClassification | None = None,
        feature_extractor: CedFeatureExtractor | None = None,
        *,
        num_threads: int | None = None,
        batch_size: int | None = None,
        runtime: str = TORCH,
        quantize: str | None = None,
    ) -> None:
        if model is None:
            with _cpu_threads():
                bundled: Any = CedForAudioClassification.from_pretrained(bundled_folder())
                model = bundled.to(_default_device(runtime))
            assert model is not None
        if getattr(getattr(model, "config", None), "model_type", None) != CedConfig.model_type:
            raise ValueError(f"`model` must be a CED classification model, got {type(model).__name__}.")
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"`num_threads` must be at least 1, got {num_threads}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        export = choose_for_tagger(runtime, quantize)
        with _cpu_threads(1):  # 20 ms for ced-base
            check_weights(model)
        self.model = model
        self.feature_extractor = feature_extractor or _front_end(model.config)
        self.num_threads = num_threads or torch.get_num_threads()
        self.batch_size = batch_size or (4 if model.device.type == "cpu" else 32)
        config: CedConfig = model.config
        self.labels: list[str] = [config.id2label[index] for index in range(model.num_labels)]  # type: ignore[index]
        self.patch_size = config.patch_size
        self.target_length = config.target_length
        self.runtime, self.quantize = runtime, quantize
        self._exported: ExportedModel | None = None
        if export is not None:
            with _cpu_threads():
                self._exported = ExportedModel(
                    in_evaluation_mode(model), self.feature_extractor, export, self.num_threads
                )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        num_threads: int | None = None,
        batch_size: int | None = None,
        runtime: str = TORCH,
        quantize: str | None = None,
        **kwargs: Any,
    ) -> "AudioTagger":
        """
        Loads a tagger from a folder or a Hub repository.

        Args:
            model: a local folder, the id of a repository such as `"mispeech/ced-mini"`, or `"ced-nano"`, the small
                model that is a part of this package.
            device: where to compute, by default a GPU if there is one, else the CPU.
            dtype: type of the weights, by default float32.
            num_threads, batch_size, runtime, quantize: as for [`AudioTagger`]. Other runtimes than torch compute on a
                CPU, and in their own type: `device` and `dtype` are for torch.
            kwargs: passed on to `CedForAudioClassification.from_pretrained`, such as `revision` or `token`.

        Raises:
            ValueError: if the repository holds another kind of model, lacks weights or has some that are NaN or
                infinite, if there is no such device or runtime, or if the options exclude each other.
            OSError: if there is no such folder or repository, or it cannot be reached; if an export cannot be kept.
            ImportError: if packages of the runtime are missing; it names the extra.
            RuntimeError: if the model cannot be exported, or its export differs from it by too much.
        """
        choose_for_tagger(runtime, quantize, device, dtype)  # before the work, not after it
        source, kwargs = open_model(model, **kwargs)
        if device is None:
            device = _default_device(runtime)
        _check_device(device)
        with _cpu_threads():
            loaded: Any = CedForAudioClassification.from_pretrained(
                source, dtype=dtype or torch.float32, output_loading_info=True, **kwargs
            )
            network, loading = loaded
            network.to(device)
        if loading["missing_keys"]:
            missing = sorted(loading["missing_keys"])
            raise ValueError(
                f"{str(model)!r} is not a whole classification model: it lacks {len(missing)} tensors, such as"
                f" {', '.join(missing[:3])}."
            )
        try:
            feature_extractor = CedFeatureExtractor.from_pretrained(source, **kwargs)
        except OSError:
            logger.info(f"{model} has no preprocessor_config.json: using the front end that config.json describes.")
            feature_extractor = None
        return cls(
            network,
            feature_extractor,
            num_threads=num_threads,
            batch_size=batch_size,
            runtime=runtime,
            quantize=quantize,
        )

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the model in Hz; inputs are resampled to it."""
        return self.feature_extractor.sampling_rate

    @property
    def min_window_s(self) -> float:
        """Length of one patch in seconds (0.15 s): shorter clips are zero-padded to it, windows cannot be shorter."""
        return self.feature_extractor.min_samples / self.sampling_rate

    @property
    def max_window_s(self) -> float:
        """Longest window in seconds: `target_length` frames (10.12 s for the published models)."""
        return self._max_samples / self.sampling_rate

    def __call__(
        self,
        inputs: AudioInput | list[AudioInput],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        labels: Sequence[str] | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
        average: str = "mean",
        sampling_rate: int | None = None,
        channel: str | int = MIX,
    ) -> list[Tag] | list[list[Tag]]:
        """
        Tags one input or a list of inputs.

        Args:
            inputs: a path, the bytes of a file, a file object, a waveform (array or tensor of shape `(samples,)`),
                `{"array": waveform, "sampling_rate": Hz}`, or a list of any of these.
            top_k: number of tags per input: by default 5, or all if a `threshold` or `labels` are given.
            threshold: leave out tags with a lower score.
            labels: consider these classes only.
            window_s, hop_s: length of the windows of long clips and distance between their starts in seconds;
                by default 10 s without overlap.
            average: `"mean"` of the windows' scores weighted by their duration, or `"max"`.
            sampling_rate: of bare waveforms in Hz, by default the model's.
            channel: `"mix"` averages the channels of an input; a number from 0 selects one, and `"loudest"` the one
                with the most energy in the whole input, which is decoded twice for that.

        Returns:
            The tags with the highest scores first; a list of such lists, in the order of the inputs, for a list.

        Raises:
            AudioError: if an input cannot be read, or has samples or scores that are no finite numbers.
                [`AudioTagger.tag`] goes on with the others instead.
            ValueError: for a class that the model does not have, or windows that it cannot look at.
        """
        options: dict[str, Any] = {
            "top_k": top_k,
            "threshold": threshold,
            "labels": labels,
            "window_s": window_s,
            "hop_s": hop_s,
            "average": average,
            "sampling_rate": sampling_rate,
            "channel": channel,
        }
        is_list = _is_list(inputs)
        results = []
        for result in self.tag(_as_list(inputs), **options):
            if result.error is not None:
                raise result.error
            results.append(result.tags)
        return results if is_list else results[0]

    def tag(
        self,
        inputs: Iterable[AudioInput],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        labels: Sequence[str] | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
        average: str = "mean",
        sampling_rate: int | None = None,
        channel: str | int = MIX,
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[TagResult]:
        """
        Tags many inputs, one [`TagResult`] each, in their order, as they become ready.

        The arguments are those of [`AudioTagger.__call__`], and `on_audio`, which is called with the seconds of audio
        whenever some more were scored. An input that cannot be read, or has samples or scores that are no finite
        numbers, gives a result with its `error`, and the others go on. Inputs are taken from the iterable in other
        threads, a few ahead of the results; no result waits for an input behind it.
        """
        if average not in ("mean", "max"):
            raise ValueError(f"`average` must be 'mean' or 'max', got {average!r}.")
        select = self._selection(top_k, threshold, labels)
        read = self._clip_reader(window_s, hop_s, sampling_rate, channel)
        for source, state in self._run(inputs, read, self._computing(self._scores), on_audio):
            tags = [] if state.error is not None else select(state.average(average))
            yield TagResult(source, describe(source), state.scored_to / self.sampling_rate, tags, error=state.error)

    def timeline(
        self,
        source: AudioInput,
        *,
        window_s: float = TIMELINE_WINDOW_S,
        hop_s: float | None = None,
        sampling_rate: int | None = None,
        channel: str | int = MIX,
    ) -> Timeline:
        """
        Scores of one recording over time.

        Args:
            source: an input as for [`AudioTagger.__call__`].
            window_s: length of the windows in seconds, up to `max_window_s`.
            hop_s: distance between their starts in seconds, by default half of `window_s`.
            sampling_rate: of a bare waveform in Hz, by default the model's.
            channel: as for [`AudioTagger.__call__`].

        Returns:
            A [`Timeline`]. The windows cover the whole recording: the last one keeps its own length, and is joined to
            the one before it if it would be shorter than one patch (0.15 s). Where the model cannot look at both
            together, the one before it gives it as much as it lacks.

        Raises:
            AudioError: if the recording cannot be read, or has samples or scores that are no finite numbers.
            ValueError: for windows that the model cannot look at.
        """
        options: dict[str, Any] = {"sampling_rate": sampling_rate, "channel": channel}
        result = next(self.timelines([source], window_s=window_s, hop_s=hop_s, **options))
        if result.error is not None:
            raise result.error
        assert result.timeline is not None
        return result.timeline

    def timelines(
        self,
        inputs: Iterable[AudioInput],
        *,
        window_s: float = TIMELINE_WINDOW_S,
        hop_s: float | None = None,
        sampling_rate: int | None = None,
        channel: str | int = MIX,
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[TagResult]:
        """
        [`AudioTagger.timeline`] of many inputs: results in their order, with a `timeline` or an `error`.

        `on_audio` is called with the seconds of audio whenever some more were scored.
        """
        window, hop = self._window_samples(window_s, window_s / 2 if hop_s is None else hop_s)
        reading: dict[str, Any] = {"sampling_rate": sampling_rate, "channel": check_channel(channel)}
        read = partial(self._windows, window=window, hop=hop, fits_whole=False, **reading)
        for source, state in self._run(inputs, read, self._computing(self._scores), on_audio):
            duration_s = state.scored_to / self.sampling_rate
            timeline = None
            if state.error is None:
                start_s, end_s = state.spans.T / self.sampling_rate
                timeline = Timeline(state.scores, start_s, end_s, self.labels, duration_s)
            yield TagResult(source, describe(source), duration_s, timeline=timeline, error=state.error)

    def events(
        self,
        source: AudioInput,
        thresholds: float | Mapping[str, float] = 0.5,
        *,
        min_duration_s: float = 0.0,
        merge_gap_s: float = 0.0,
        window_s: float = TIMELINE_WINDOW_S,
        hop_s: float | None = None,
        sampling_rate: int | None = None,
        channel: str | int = MIX,
    ) -> list[Event]:
        """
        When something sounds in a recording.

        Args:
            source, window_s, hop_s, sampling_rate, channel: as for [`AudioTagger.timeline`].
            thresholds, min_duration_s, merge_gap_s: as for [`Timeline.events`].

        Returns:
            Events ordered by onset.

        Raises:
            AudioError: if the recording cannot be read.
            ValueError: for a class that the model does not have, or windows that it cannot look at.
        """
        check_event_options(self.labels, thresholds, min_duration_s, merge_gap_s)  # before the work, not after it
        options: dict[str, Any] = {"sampling_rate": sampling_rate, "channel": channel}
        timeline = self.timeline(source, window_s=window_s, hop_s=hop_s, **options)
        return timeline.events(thresholds, min_duration_s, merge_gap_s)

    def embed(
        self,
        inputs: AudioInput | list[AudioInput],
        *,
        window_s: float | None = None,
        sampling_rate: int | None = None,
        channel: str | int = MIX,
    ) -> np.ndarray:
        """
        Pooled embeddings, for retrieval or as features for another classifier.

        Args:
            inputs, sampling_rate, channel: as for [`AudioTagger.__call__`].
            window_s: length of the windows of long clips in seconds, by default 10 s. The embedding of a long clip is
                the mean of its windows' weighted by their duration.

        Returns:
            float32 of shape `(clips, hidden_size)`; `(hidden_size,)` for a single input.

        Raises:
            AudioError: if an input cannot be read.
        """
        is_list = _is_list(inputs)
        read = self._clip_reader(window_s, None, sampling_rate, channel)
        embeddings = []
        for _, state in self._run(_as_list(inputs), read, self._computing(self._embeddings)):
            if state.error is not None:
                raise state.error
            embeddings.append(state.average("mean"))
        if not is_list:
            return embeddings[0]
        return np.stack(embeddings) if embeddings else np.zeros((0, self.model.config.hidden_size), np.float32)

    def stream(
        self,
        chunks: Iterable[Any],
        *,
        sampling_rate: int | None = None,
        window_s: float = TIMELINE_WINDOW_S,
        hop_s: float | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        labels: Sequence[str] | None = None,
    ) -> Iterator[StreamUpdate]:
        """
        Tags audio while it comes in; the scores are those of [`AudioTagger.timeline`] of the whole.

        Args:
            chunks: consecutive pieces of the audio, of any length: waveforms of shape `(samples,)`, floats or integer
                PCM, or dictionaries with such an `array` and optionally its `sampling_rate` and `start`, the index
                of its first sample in the stream.
            sampling_rate: of the chunks in Hz, by default that of the first chunk, or else the model's.
            window_s, hop_s: as for [`AudioTagger.timeline`].
            top_k, threshold, labels: as for [`AudioTagger.__call__`].

        Yields:
            A [`StreamUpdate`] for each window as soon as its audio is there (windows that do not overlap wait for
            0.15 s more, to see whether the stream ends), and the last one when the chunks end.

        Raises:
            ValueError: if a chunk has another sampling rate, or does not start where the one before it ended.
            AudioError: if a chunk is not mono audio, or if samples or scores are no finite numbers.
        """
        window, hop = self._window_samples(window_s, window_s / 2 if hop_s is None else hop_s)
        select = self._selection(top_k, threshold, labels)
        compute = self._computing(self._scores)
        for cut in self._cut(stream_blocks(chunks, sampling_rate, self.sampling_rate), window, hop, "the stream"):
            scores = self._compute_alone(cut, compute).scores
            start_s, end_s = cut.start / self.sampling_rate, (cut.start + len(cut.waveform)) / self.sampling_rate
            check_scores(scores, "the stream", start_s)
            yield StreamUpdate(start_s, end_s, select(scores), scores)

    @property
    def _max_samples(self) -> int:
        extractor = self.feature_extractor
        first = 0 if extractor.center else extractor.n_fft
        return first + self.target_length * extractor.hop_size - 1

    def _window_samples(self, window_s: float, hop_s: float) -> tuple[int, int]:
        for name, value in (("window_s", window_s), ("hop_s", hop_s)):
            check_number(name, value)
            if not math.isfinite(value):
                raise ValueError(f"`{name}={value}`: expected a length in seconds.")
        window, hop = round(window_s * self.sampling_rate), round(hop_s * self.sampling_rate)
        if not self.feature_extractor.min_samples <= window <= self._max_samples:
            raise ValueError(
                f"`window_s={window_s}`: this model looks at windows of {self.min_window_s:.3g} to"
                f" {self.max_window_s:.4g} seconds."
            )
        if not 0 < hop <= window:
            raise ValueError(
                f"`hop_s={hop_s}` must be above 0 and at most `window_s={window_s}`, so that no audio is left out."
            )
        return window, hop

    def _clip_reader(
        self, window_s: float | None, hop_s: float | None, sampling_rate: int | None, channel: str | int
    ) -> Callable[[Any], Iterator[Window]]:
        """How a clip is read as windows, by default 10 s long and not overlapping."""
        length_s = min(CLIP_WINDOW_S, self.max_window_s) if window_s is None else window_s
        window, hop = self._window_samples(length_s, length_s if hop_s is None else hop_s)
        fits_whole = window_s is None and hop_s is None
        reading: dict[str, Any] = {"sampling_rate": sampling_rate, "channel": check_channel(channel)}
        return partial(self._windows, window=window, hop=hop, fits_whole=fits_whole, **reading)

    def _cut(self, blocks: Iterable[np.ndarray], window: int, hop: int, name: str) -> Iterator[Window]:
        """Windows of audio whose features are finite."""
        extractor = self.feature_extractor
        blocks = check_peaks(blocks, MAX_MAGNITUDE / extractor.n_fft, self.sampling_rate, name)
        return cut_windows(blocks, window, hop, extractor.min_samples, self._max_samples)

    def _windows(
        self, source: Any, *, window: int, hop: int, fits_whole: bool, sampling_rate: int | None, channel: str | int
    ) -> Iterator[Window]:
        """Windows of one input; with `fits_whole`, what the model can look at in one piece stays in one."""
        name = describe(source)
        options: dict[str, Any] = {"array_sampling_rate": sampling_rate, "channel": channel}
        blocks = iter(read_blocks(source, sampling_rate=self.sampling_rate, **options))
        if not fits_whole:
            return self._cut(blocks, window, hop, name)
        beginning: list[np.ndarray] = []
        while sum(map(len, beginning)) <= self._max_samples:
            block = next(blocks, None)
            if block is None:
                return self._cut(beginning, self._max_samples, self._max_samples, name)
            beginning.append(block)
        return self._cut(chain(beginning, blocks), window, hop, name)

    def _patches(self, num_samples: int) -> int:
        """Patches in time of a window of so many samples."""
        extractor = self.feature_extractor
        return extractor.num_frames(max(num_samples, extractor.min_samples)) // self.patch_size

    def _log_mels(self, waveforms: list[np.ndarray]) -> torch.Tensor:
        """Log-mels of windows with the same number of patches, whole patches only: `(windows, n_mels, frames)`."""
        extractor = self.feature_extractor
        frames = self._patches(len(waveforms[0])) * self.patch_size
        features = []
        for waveform in waveforms:
            samples = torch.from_numpy(waveform).to(self.model.device)
            if len(samples) < extractor.min_samples:
                samples = torch.nn.functional.pad(samples, (0, extractor.min_samples - len(samples)))
            features.append(extractor.log_mel(samples)[:, :frames])
        return torch.stack(features)

    def _computing(self, compute: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        """`compute`, one of the two below, with what it takes for the model."""
        return partial(compute, self.model if self._exported is not None else in_evaluation_mode(self.model))

    @torch.inference_mode()
    def _scores(self, model: Any, waveforms: list[np.ndarray], is_alone: bool = False) -> np.ndarray:
        """
        Class scores of windows with the same number of patches: float32 of shape `(windows, classes)`.

        Unless it `is_alone`, other calls compute at the same time.
        """
        log_mels = self._log_mels(waveforms)
        if self._exported is not None:
            return self._exported.run(log_mels, is_alone)["probabilities"]
        logits = model(log_mels).logits.float()
        problem_type = model.config.problem_type
        if problem_type == "single_label_classification":
            logits = logits.softmax(dim=-1)
        elif problem_type != "regression":
            logits = logits.sigmoid()
        return logits.cpu().numpy()

    @torch.inference_mode()
    def _embeddings(self, model: Any, waveforms: list[np.ndarray], is_alone: bool = False) -> np.ndarray:
        """Pooled embeddings, as [`AudioTagger._scores`]: float32 of shape `(windows, hidden_size)`."""
        log_mels = self._log_mels(waveforms)
        if self._exported is not None:
            return self._exported.run(log_mels, is_alone)["embeddings"]
        return model.encoder(log_mels).pooler_output.float().cpu().numpy()

    def _run(
        self,
        inputs: Iterable[Any],
        read: Callable[[Any], Iterator[Window]],
        compute: Callable[..., np.ndarray],
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[tuple[Any, _Input]]:
        """Each input with its windows' scores or its error, in the order of the inputs."""
        if is_single_input(inputs):
            raise ValueError(
                f"`inputs` must be a list of inputs, got a single {type(inputs).__name__}: put it into a list, or use"
                " `tagger(…)` or `tagger.timeline(…)`."
            )
        # Whether a generator has a second input is not known before it comes.
        is_single = isinstance(inputs, Sized) and len(inputs) == 1
        inputs = iter(inputs)
        beginning = list(islice(inputs, 2)) if is_single else []
        if len(beginning) == 1:
            # A single window is not worth starting threads for.
            try:
                remaining = read(beginning[0])
                head = list(islice(remaining, 2))
            except Exception as error:
                yield beginning[0], _Input().finish(InputEnd(0, 0, without_variables(error)))
                return
            if len(head) == 1:
                state = _Input()
                samples = state.add(self._compute_alone(head[0], compute))
                if on_audio is not None:
                    on_audio(samples / self.sampling_rate)
                yield beginning[0], self._finish(state, InputEnd(0, 1, None), beginning[0])
                return
            read = partial(lambda windows, _: windows, chain(head, remaining))

        sources: dict[int, Any] = {}
        has_room, is_over = threading.Event(), threading.Event()
        has_room.set()

        def remember() -> Iterator[Any]:
            for index, source in enumerate(chain(beginning, inputs)):
                sources[index] = source
                yield source
                has_room.wait()
                if is_over.is_set():
                    return

        pid = os.getpid()
        on_cpu = self.model.device.type == "cpu"
        waiting: dict[int, _Input] = {}
        next_index = num_waiting = 0
        messages = score_windows(
            remember(),
            read,
            compute,
            self._patches,
            batch_size=self.batch_size,
            # On a CPU, a batch per core keeps all of them busier than all cores sharing a batch.
            num_workers=self.num_threads if on_cpu else 1,
            start_worker=partial(_use_threads, 1) if on_cpu else lambda: None,
        )
        try:
            for message in messages:
                state = waiting.setdefault(message.input_index, _Input())
                if isinstance(message, InputEnd):
                    state.end = message
                else:
                    samples = state.add(message)
                    if on_audio is not None and samples:
                        on_audio(samples / self.sampling_rate)
                num_waiting += 1
                while (ready := waiting.get(next_index)) is not None and ready.is_complete:
                    assert ready.end is not None
                    del waiting[next_index]
                    num_waiting -= 1 + ready.windows
                    source = sources.pop(next_index)
                    yield source, self._finish(ready, ready.end, source)
                    next_index += 1
                # Inputs that were begun are read to their end, so that the one which all wait for is never held up.
                (has_room.set if num_waiting < MAX_WAITING else has_room.clear)()
        finally:
            if os.getpid() == pid:
                is_over.set()
                has_room.set()
                messages.close()

    def _finish(self, state: _Input, end: InputEnd, source: Any) -> _Input:
        """Ends an input, which fails if some of its scores are no numbers."""
        if end.error is None and state.not_finite is not None:
            try:
                check_scores(state.not_finite.scores, describe(source), state.not_finite.start / self.sampling_rate)
            except AudioError as error:
                end = end._replace(error=error)
        return state.finish(end)

    def _compute_alone(self, window: Window, compute: Callable[..., np.ndarray]) -> WindowScores:
        """Scores of a single window, computed by all threads together."""
        # Before another runtime, PyTorch computes the front end only. If it did so in several threads, these would look
        # for more work for a while, on the cores that the runtime's own threads then need.
        with _cpu_threads(self.num_threads if self._exported is None else 1):
            scores = compute([window.waveform], is_alone=not is_forked())[0]
        return WindowScores(0, window.position, window.start, len(window.waveform), scores)

    def _selection(
        self, top_k: int | None, threshold: float | None, labels: Sequence[str] | None
    ) -> Callable[[np.ndarray], list[Tag]]:
        """How scores of shape `(classes,)` become tags."""
        if top_k is None and threshold is None and labels is None:
            top_k = TOP_K
        if top_k is not None and (not isinstance(top_k, (int, np.integer)) or top_k < 1):
            raise ValueError(f"`top_k` must be a whole number from 1, got {top_k!r}.")
        if threshold is not None:
            check_number("threshold", threshold)
        if isinstance(labels, str):
            raise ValueError(f"`labels` must be a list of class names, got {labels!r}.")
        indices = range(len(self.labels)) if labels is None else [find_label(self.labels, name) for name in labels]
        candidates = np.array(sorted(set(indices)), dtype=int)

        def select(scores: np.ndarray) -> list[Tag]:
            order = candidates[np.argsort(-scores[candidates], kind="stable")][:top_k]
            if threshold is not None:
                order = order[scores[order] >= threshold]
            return [Tag(self.labels[index], float(scores[index]), int(index)) for index in order]

        return select


def _front_end(config: CedConfig) -> CedFeatureExtractor:
    return CedFeatureExtractor(
        feature_size=config.n_mels,
        f_min=config.f_min,
        f_max=config.f_max,
        n_fft=config.n_fft,
        win_size=config.win_size,
        hop_size=config.hop_size,
        center=config.center,
    )


def _default_device(runtime: str) -> str:
    return "cuda" if runtime == TORCH and torch.cuda.is_available() else "cpu"


def _check_device(device: str | torch.device) -> None:
    try:
        torch.zeros(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # by build and by device
        reason = str(error).partition("\n")[0]
        raise ValueError(f"`device={str(device)!r}` cannot be used; leave it out, or use 'cpu'. ({reason})") from None


@contextmanager
def _cpu_threads(number: int | None = None) -> Iterator[None]:
    """
    How many CPU threads PyTorch uses for what this thread computes in the context, by default as many as before.

    In a forked process it is one: those of the parent's pool are not there, and PyTorch would wait for them for ever.
    """
    before = torch.get_num_threads()
    try:
        _use_threads(1 if is_forked() else number or before)
        yield
    finally:
        _use_threads(before)


_THREADS_LOCK = threading.Lock()


@after_fork
def _renew_lock() -> None:
    global _THREADS_LOCK
    _THREADS_LOCK = threading.Lock()


def _use_threads(number: int) -> None:
    """
    How many CPU threads PyTorch uses for what this thread computes.

    `torch.set_num_threads` also sets what threads yet to come start with, which here stays as it was, so that others
    who use PyTorch in the same process notice nothing.
    """
    if torch.get_num_threads() == number:  # asking also keeps a new thread from setting its number later on
        return
    with _THREADS_LOCK, ThreadPoolExecutor(1) as new_thread:
        default = new_thread.submit(torch.get_num_threads).result()
        torch.set_num_threads(number)
        new_thread.submit(torch.set_num_threads, default).result()


def _is_list(inputs: Any) -> bool:
    return isinstance(inputs, (list, tuple)) or (hasattr(inputs, "dtype") and not is_single_input(inputs))


def _as_list(inputs: Any) -> list[Any]:
    return list(inputs) if _is_list(inputs) else [inputs]


__all__ = ["AudioError", "AudioTagger", "Event", "StreamUpdate", "Tag", "TagResult", "Timeline"]
