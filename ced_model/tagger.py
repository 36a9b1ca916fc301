# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""AudioTagger: files, long recordings and live audio → tags, timelines, events and embeddings."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .audio import MIX, AudioInput, describe, is_single_input
from .bundled import DEFAULT_MODEL
from .classes import choice_scores, choose_classes
from .dataset_columns import audio_column
from .engines import Engine, choose_engine, open_engine
from .events import THRESHOLD, Event, Rule, check_thresholds, class_limits, event_rules, smoothing_windows
from .forking import is_forked
from .hub import HUB_OPTIONS
from .messages import OptionError, check_count, check_number, one_line
from .model_folder import ModelFolder, open_model
from .recording_times import parse_start_time, parse_timezone, recorded_at
from .results import EmbeddingResult, StreamUpdate, Tag, TagResult, Timeline
from .scheduling import InputScores, Window, check_scores, score_inputs
from .streaming import smooth_stream, stream_blocks, stream_events
from .windows import CPU_BATCH_SIZE, GPU_BATCH_SIZE, TIMELINE_WINDOW_S, ModelWindows

if TYPE_CHECKING:
    from .feature_extraction_ced import CedFeatureExtractor
    from .modeling_ced import CedForAudioClassification

logger = logging.getLogger(__name__)

TOP_K = 5
MAX_THREADS = 1024


class AudioTagger:
    """
    Tags audio with a CED model.

    Clips of up to `target_length` frames (10.12 s for the published models) are tagged in one piece. Longer clips are
    split into windows of 10 s without overlap; the last window may be shorter. The scores of a clip are the mean of its
    window scores, weighted by duration, or their maximum. (The model's own chunking, in contrast, pads the last chunk
    with zeros and weights all chunks equally.)

    Taggers can be pickled and used from several threads. They also work in forked processes, such as those of
    `multiprocessing`, `DataLoader` and `Dataset.map`, with one thread per process; OpenVINO does not work in a forked
    process if the parent process has used it.

    Args:
        model: A local folder, the id of a Hub repository such as `"mispeech/ced-mini"`, or `"ced-nano"` (default), the
            small model in this package; or a `CedForAudioClassification`. With the torch engine, later changes of its
            weights take effect; other engines copy the weights.
        engine: `"auto"`, `"onnx"`, `"openvino"` or `"torch"`. `"auto"` uses torch if it is installed and there is a
            CUDA GPU, and otherwise ONNX Runtime on the CPU.
        compute_type: `"float32"` (default), `"bfloat16"` (openvino, torch), `"float16"` (torch) or `"int8"` (onnx,
            openvino: the transformer blocks in 8-bit integers).
        device: `"cpu"`, `"cuda"`, `"mps"`, …; devices other than the CPU require torch. By default, the torch engine
            uses a CUDA GPU if there is one. A `CedForAudioClassification` stays on its device.
        num_threads: Number of CPU threads, by default one per available CPU.
        batch_size: Maximum number of windows computed together, by default 4 on a CPU and 32 on other devices.
        feature_extractor: The feature extractor of a `CedForAudioClassification`, by default one that fits its
            configuration.
        hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, … for a Hub repository.

    Attributes:
        name: The model's name: a Hub id, the name of the bundled model, or a folder.
        folder: The model's folder, for a Hub repository in the cache; None for a model in memory.
        labels: The names of the classes.
        problem_type: `"multi_label_classification"`, `"single_label_classification"` or `"regression"`.
        front_end: The parameters of the front end.
        sampling_rate: Sampling rate of the model in Hz; inputs are resampled to it.
        embed_dim: Width of the embeddings.
        min_window_s: Shortest window in seconds: one patch (0.15 s). Shorter clips are zero-padded to it.
        max_window_s: Longest window in seconds: `target_length` frames (10.12 s for the published models).
        batch_size, num_threads: As above.

    Raises:
        ValueError: if the folder has a different kind of model, or weights that are missing, NaN or infinite, or if
            options are invalid or exclude each other.
        OSError: if there is no such folder or repository, or it cannot be reached.
        ImportError: if a package of the engine is missing; the message has the command to install it.
        RuntimeError: if the engine does not support the model. ONNX Runtime and OpenVINO load the model when the first
            input is tagged, so the error may be raised then.
    """

    def __init__(
        self,
        model: "str | os.PathLike[str] | CedForAudioClassification | None" = None,
        *,
        engine: str = "auto",
        compute_type: str | None = None,
        device: str | None = None,
        num_threads: int | None = None,
        batch_size: int | None = None,
        feature_extractor: "CedFeatureExtractor | None" = None,
        **hub_options: Any,
    ) -> None:
        if unknown := hub_options.keys() - HUB_OPTIONS:
            raise TypeError(f"AudioTagger() got an unexpected keyword argument {min(unknown)!r}")
        for option, value in (("num_threads", num_threads), ("batch_size", batch_size)):
            if value is not None:
                check_count(option, value)
        if num_threads is not None and num_threads > MAX_THREADS:
            raise OptionError("num_threads", num_threads, f"at most {MAX_THREADS}")
        self.num_threads = num_threads or default_num_threads()
        self._torch_model = self._feature_extractor = None
        self._folder: ModelFolder
        self._engine: Engine
        if model is None or isinstance(model, str | os.PathLike):
            if feature_extractor is not None:
                wanted = "None for a folder or Hub id, which has its own; it is for a model in memory"
                raise OptionError("feature_extractor", type(feature_extractor).__name__, wanted)
            choice = choose_engine(engine, compute_type, device)
            self._folder = open_model(DEFAULT_MODEL if model is None else model, **hub_options)
            self._engine = open_engine(self._folder, choice, self.num_threads)
        else:
            from .engines.torch import TorchEngine, folder_of

            self._torch_model, self._feature_extractor = model, feature_extractor
            if engine in ("auto", "torch"):
                self._folder = folder_of(model, feature_extractor, with_weights=False)
                self._engine = TorchEngine(model, self.num_threads, self._folder.settings.has_steps)
                for field, asked in (("compute_type", compute_type), ("device", device)):
                    own = getattr(self._engine, field)
                    if asked is not None and not own.startswith(str(asked)):
                        raise OptionError(field, str(asked), f"{own}, as the model is; `model.to(…)` changes it")
            else:
                choice = choose_engine(engine, compute_type, device)
                self._folder = folder_of(model, feature_extractor, with_weights=True)
                self._engine = open_engine(self._folder, choice, self.num_threads)
        self.batch_size = batch_size or (CPU_BATCH_SIZE if self._engine.device == "cpu" else GPU_BATCH_SIZE)
        settings = self._folder.settings
        self.name, self.folder = self._folder.name, self._folder.path
        self.labels: list[str] = list(self._folder.labels)
        self.problem_type, self.embed_dim = settings.problem_type, settings.embed_dim
        self.front_end, self.sampling_rate = self._folder.front_end, self._folder.front_end.sampling_rate
        self._has_steps = settings.has_steps
        self._windows = ModelWindows(self.front_end, settings.target_length, settings.patch_size)
        self.min_window_s = self.front_end.min_samples / self.sampling_rate
        self.max_window_s = self._windows.max_samples / self.sampling_rate

    def __repr__(self) -> str:
        return f"<AudioTagger {self.name}, {self.engine} {self.compute_type} on {self.device}>"

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **options: Any) -> "AudioTagger":
        """The same as `AudioTagger(model, **options)`."""
        return cls(model, **options)

    @property
    def engine(self) -> str:
        """The engine in use: `"onnx"`, `"openvino"` or `"torch"`."""
        return self._engine.name

    @property
    def compute_type(self) -> str:
        """The compute type in use, such as `"float32"`."""
        return self._engine.compute_type

    @property
    def device(self) -> str:
        """The device in use, such as `"cpu"`."""
        return self._engine.device

    @property
    def model(self) -> "CedForAudioClassification":
        """The model in PyTorch, in evaluation mode. It is loaded on first access."""
        if self._torch_model is None:
            from .engines.torch import TorchEngine, load_model

            is_loaded = isinstance(self._engine, TorchEngine)
            self._torch_model = self._engine.model if is_loaded else load_model(self._folder)  # type: ignore[attr-defined]
        return self._torch_model

    @property
    def feature_extractor(self) -> "CedFeatureExtractor":
        """The transformers feature extractor with the same front end."""
        if self._feature_extractor is None:
            from .feature_extraction_ced import CedFeatureExtractor

            self._feature_extractor = CedFeatureExtractor.from_front_end(self.front_end)
        return self._feature_extractor

    @property
    def fingerprint(self) -> str:
        """A checksum of all that scores depend on: weights, configuration and front end."""
        return self._folder.fingerprint()

    def __call__(self, inputs: AudioInput | list[AudioInput], **options: Any) -> list[Tag] | list[list[Tag]]:
        """
        Tags one input or a list of inputs.

        Args:
            inputs: A path, the bytes of a file, a file object, a waveform (array or tensor of shape `(samples,)`),
                `{"array": waveform, "sampling_rate": Hz}`, a row of 🤗 datasets or the audio in it, or a list of any of
                these.
            options: Those of [`AudioTagger.tag`], such as `top_k` and `threshold`.

        Returns:
            The tags, highest score first. For a list of inputs, a list of such lists in the same order.

        Raises:
            AudioError: if an input cannot be read, or has samples or scores that are not finite. (With
                [`AudioTagger.tag`], the other inputs are still tagged.)
            ValueError: for a class that the model does not have, or an invalid window length.
        """
        inputs = audio_column(inputs)
        results = []
        for result in self.tag(_as_list(inputs), **options):
            if result.error is not None:
                raise result.error
            results.append(result.tags)
        return results if _is_list(inputs) else results[0]

    def tag(
        self,
        inputs: Iterable[AudioInput],
        *,
        top_k: int | None = None,
        threshold: float | Mapping[str, Any] | None = None,
        labels: Any = None,
        exclude: Any = None,
        label_map: Mapping[str, str | None] | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
        average: str = "mean",
        sampling_rate: int | None = None,
        channel: str | int = MIX,
        start_time: str | datetime | None = None,
        timezone: str | None = None,
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[TagResult]:
        """
        Tags many inputs. Yields one [`TagResult`] per input, in order, as soon as it is ready.

        Args:
            inputs: Inputs as for [`AudioTagger.__call__`]. They are read in background threads, a few ahead of the
                results; a result never waits for a later input.
            top_k: Number of tags per input, by default 5, or all if a `threshold` or `labels` are given.
            threshold: Minimum score of tags: a number, or by class as for [`Timeline.events`].
            labels: Only consider these classes and groups: a list, or a text with names separated by commas. A class is
                given by its name, index or machine id. `"Dog..."` is the group of "Dog" and all classes below it in the
                AudioSet ontology; it gives one tag with the highest of their scores.
            exclude: Leave out these classes and groups.
            label_map: Your own names for classes and groups. An empty name leaves a class out; classes with the same
                name become one tag with the highest of their scores.
            window_s, hop_s: Length of the windows of long clips and distance between their starts in seconds. By
                default 10 s without overlap; with `average="max"`, 2 s and 1 s.
            average: How window scores are combined: `"mean"`, weighted by duration, or `"max"` to find short sounds.
            sampling_rate: Sampling rate of bare waveforms in Hz, by default that of the model.
            channel: `"mix"` averages the channels, 0, 1, … takes one, `"loudest"` takes the one with the most energy.
            start_time: When the recordings began, for `recorded_at` of the results: a time, or `"auto"` to find it in
                file headers (GUANO, Broadcast WAV, AudioMoth comments) and file names.
            timezone: Time zone of times without one, such as `"Europe/Berlin"` or `"+02:00"`.
            on_audio: Called with the number of seconds each time more audio has been scored.

        Yields:
            Results. If an input cannot be read, or has samples or scores that are not finite, the `error` of its result
            is set, and the other inputs are still tagged.

        Raises:
            ValueError: for a class that the model does not have, or an invalid window length.
        """
        if average not in ("mean", "max"):
            raise OptionError("average", average, "mean or max")
        select = self._selection(top_k, threshold, labels, exclude, label_map)
        read = self._windows.of_clips(window_s, hop_s, sampling_rate, channel, average)
        began_at = _time_finder(start_time, timezone)
        for source, state in self._run(inputs, read, self._scores, on_audio):
            tags = [] if state.error is not None else select(state.average(average))
            duration_s = state.scored_to / self.sampling_rate
            yield TagResult(source, describe(source), duration_s, tags, None, state.error, began_at(source))

    def timeline(self, source: AudioInput, **options: Any) -> Timeline:
        """
        Scores of one recording over time.

        Args:
            source: An input as for [`AudioTagger.__call__`].
            options: `window_s`, `hop_s`, `sampling_rate` and `channel` as for [`AudioTagger.timelines`].

        Raises:
            AudioError: if the recording cannot be read, or has samples or scores that are not finite.
            ValueError: for an invalid window length.
        """
        result = next(self.timelines([source], **options))
        if result.error is not None:
            raise result.error
        assert result.timeline is not None
        return result.timeline

    def timelines(
        self,
        inputs: Iterable[AudioInput],
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        sampling_rate: int | None = None,
        channel: str | int = MIX,
        start_time: str | datetime | None = None,
        timezone: str | None = None,
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[TagResult]:
        """
        Scores of many recordings over time. Yields results in order, each with a [`Timeline`] or an `error`.

        The windows cover the recording to its end. The last one may be shorter, but not shorter than one patch
        (0.15 s): a shorter remainder is joined to the window before it, or extended to the left.

        A `CedForAudioFrameClassification` scores steps of one patch (0.16 s), which are the windows of its timelines.

        Args:
            window_s: Length of the windows in seconds, up to `max_window_s`, by default 2 s. For a model with steps,
                the length of the audio that it processes in one piece, by default as many steps as possible (10.08 s).
            hop_s: Distance between window starts in seconds, by default half of `window_s`. Not for models with steps.
            inputs, sampling_rate, channel, start_time, timezone, on_audio: As for [`AudioTagger.tag`].
        """
        window_s, hop_s = self._timeline_windows(window_s, hop_s)
        read = self._windows.of_timelines(window_s, hop_s, sampling_rate, channel)
        began_at = _time_finder(start_time, timezone)
        compute = self._step_scores if self._has_steps else self._scores
        for source, state in self._run(inputs, read, compute, on_audio):
            duration_s = state.scored_to / self.sampling_rate
            timeline = None
            if state.error is None:
                scores, spans = self._by_step(state.scores, state.spans)
                start_s, end_s = spans.T / self.sampling_rate
                timeline = Timeline(scores, start_s, end_s, self.labels, duration_s)
            yield TagResult(source, describe(source), duration_s, [], timeline, state.error, began_at(source))

    def events(
        self,
        source: AudioInput,
        thresholds: float | Mapping[str, Any] = THRESHOLD,
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        sampling_rate: int | None = None,
        channel: str | int = MIX,
        **finding: Any,
    ) -> list[Event]:
        """
        Finds when sounds occur in a recording.

        Args:
            source, window_s, hop_s, sampling_rate, channel: As for [`AudioTagger.timelines`].
            thresholds: As for [`Timeline.events`].
            finding: The other arguments of [`Timeline.events`], such as `min_duration_s`, `smooth_s` and `labels`.

        Returns:
            Events ordered by onset.

        Raises:
            AudioError: if the recording cannot be read, or has samples or scores that are not finite.
            ValueError: for a class that the model does not have, or an invalid window length.
        """
        self._rules(thresholds, **finding)  # checks the arguments before the work
        options: dict[str, Any] = {"window_s": window_s, "hop_s": hop_s}
        timeline = self.timeline(source, sampling_rate=sampling_rate, channel=channel, **options)
        return timeline.events(thresholds, **finding)

    def embed(
        self,
        inputs: AudioInput | list[AudioInput],
        *,
        window_s: float | None = None,
        sampling_rate: int | None = None,
        channel: str | int = MIX,
        errors: str = "raise",
    ) -> np.ndarray:
        """
        Pooled embeddings, for retrieval or as features for other classifiers.

        Args:
            inputs, sampling_rate, channel: As for [`AudioTagger.tag`], or a single input.
            window_s: Length of the windows of long clips in seconds, by default 10 s. The embedding of a long clip is
                the mean of its windows' embeddings weighted by their duration.
            errors: `"raise"`, or `"skip"` to log a warning for an input that cannot be read and fill its row with NaN.

        Returns:
            float32 of shape `(clips, embed_dim)`; `(embed_dim,)` for a single input.

        Raises:
            AudioError: with `errors="raise"`, if an input cannot be read, or has samples or embeddings that are not
                finite.
        """
        if errors not in ("raise", "skip"):
            raise OptionError("errors", errors, "raise or skip")
        read = self._windows.of_clips(window_s, None, sampling_rate, channel)
        inputs = audio_column(inputs)
        embeddings = []
        for _, state in self._run(_as_list(inputs), read, self._embeddings):
            if state.error is None:
                embeddings.append(state.average("mean"))
            elif errors == "skip":
                logger.warning("%s", one_line(state.error))
                embeddings.append(np.full(self.embed_dim, np.nan, np.float32))
            else:
                raise state.error
        if not _is_list(inputs):
            return embeddings[0]
        return np.stack(embeddings) if embeddings else np.zeros((0, self.embed_dim), np.float32)

    def embeddings(
        self,
        inputs: Iterable[AudioInput],
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        sampling_rate: int | None = None,
        channel: str | int = MIX,
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[EmbeddingResult]:
        """
        Embeddings of the windows of many inputs. Yields one [`EmbeddingResult`] per input, in order; its `error` is set
        if the input cannot be read.

        Args:
            inputs, sampling_rate, channel, on_audio: As for [`AudioTagger.tag`].
            window_s: Length of the windows in seconds. By default clips of up to `max_window_s` (10.12 s) are one
                window, and longer clips are split into windows of 10 s.
            hop_s: Distance between window starts in seconds; by default windows do not overlap.
        """
        read = self._windows.of_clips(window_s, hop_s, sampling_rate, channel)
        for source, state in self._run(inputs, read, self._embeddings, on_audio):
            windows = 0 if state.error is not None else state.windows
            vectors = state.scores[:windows] if windows else np.zeros((0, self.embed_dim), np.float32)
            start_s, end_s = state.spans[:windows].T / self.sampling_rate
            duration_s = state.scored_to / self.sampling_rate
            yield EmbeddingResult(source, describe(source), duration_s, vectors, start_s, end_s, state.error)

    def stream(
        self,
        chunks: Iterable[Any],
        *,
        sampling_rate: int | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
        smooth_s: float = 0.0,
        smoothing: str = "median",
        top_k: int | None = None,
        threshold: float | Mapping[str, Any] | None = None,
        labels: Any = None,
        exclude: Any = None,
        label_map: Mapping[str, str | None] | None = None,
        gate_dbfs: float | None = None,
    ) -> Iterator[StreamUpdate]:
        """
        Tags live audio. Scores are the same as those of [`AudioTagger.timeline`] on the complete recording.

        Args:
            chunks: Consecutive pieces of the audio, of any length: waveforms of shape `(samples,)`, floats or integer
                PCM, or dictionaries with such an `array` and optionally its `sampling_rate` and `start`, the index of
                its first sample in the stream.
            sampling_rate: Sampling rate of the chunks in Hz, by default that of the first chunk, or else of the model.
            window_s, hop_s: As for [`AudioTagger.timelines`].
            smooth_s, smoothing: As for [`Timeline.events`]. Smoothing over n windows delays each update by
                (n - 1) / 2 hops: `smooth_s=5` with a hop of 1 s delays it by 2 s.
            top_k, threshold, labels, exclude, label_map: As for [`AudioTagger.tag`].
            gate_dbfs: Skip windows in which no 0.1 s reaches this level (RMS relative to 1.0, in dB). All scores of a
                skipped window are 0.

        Yields:
            A [`StreamUpdate`] for each window as soon as its audio has arrived (0.15 s later for windows without
            overlap, in case the stream ends there), and the last one when the chunks end.

        Raises:
            ValueError: if a chunk has another sampling rate, or does not start where the one before it ended.
            AudioError: if a chunk is not mono audio, or if samples or scores are not finite.
        """
        window, hop, step = self._stream_windows(window_s, hop_s)
        select = self._selection(top_k, threshold, labels, exclude, label_map)
        event_rules([], smooth_s=smooth_s, smoothing=smoothing)  # checks them
        windows = smoothing_windows(smooth_s, step / self.sampling_rate)
        updates = self._stream_scores(chunks, sampling_rate, window, hop, gate_dbfs)
        for start_s, end_s, scores in smooth_stream(updates, windows, smoothing):
            yield StreamUpdate(start_s, end_s, select(scores), scores)

    def stream_events(
        self,
        chunks: Iterable[Any],
        thresholds: float | Mapping[str, Any] = THRESHOLD,
        *,
        sampling_rate: int | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
        gate_dbfs: float | None = None,
        **finding: Any,
    ) -> Iterator[Event]:
        """
        Finds events in live audio. Events are the same as those of [`AudioTagger.events`] on the complete recording.

        Args:
            chunks, sampling_rate, gate_dbfs: As for [`AudioTagger.stream`].
            thresholds, window_s, hop_s, finding: As for [`AudioTagger.events`].

        Yields:
            Each event once it has ended, after `merge_gap_s` and the delay of smoothing. Events are therefore ordered
            by their end.

        Raises:
            ValueError, AudioError: As [`AudioTagger.stream`] and [`AudioTagger.events`].
        """
        window, hop, step = self._stream_windows(window_s, hop_s)
        rules = self._rules(thresholds, **finding)
        updates = self._stream_scores(chunks, sampling_rate, window, hop, gate_dbfs)
        yield from stream_events(updates, step / self.sampling_rate, rules)

    def _rules(self, thresholds: Any, **finding: Any) -> list[Rule]:
        """As `event_rules`, with a threshold that scores of this model can reach."""
        rules = event_rules(self.labels, thresholds, **finding)
        if self.problem_type != "regression":
            check_thresholds("thresholds", thresholds)
        return rules

    def _stream_scores(
        self, chunks: Iterable[Any], sampling_rate: int | None, window: int, hop: int, gate_dbfs: float | None
    ) -> Iterator[tuple[float, float, np.ndarray]]:
        """Yields start and end in seconds and scores of each window of a stream."""
        if gate_dbfs is not None:
            check_number("gate_dbfs", gate_dbfs)
        blocks = stream_blocks(chunks, sampling_rate, self.sampling_rate)
        compute = self._step_scores if self._has_steps else self._scores
        for cut in self._windows.cut(blocks, window, hop, "the stream", gate_dbfs):
            if cut.is_quiet:
                steps = self._windows.patches(len(cut.waveform)) if self._has_steps else 1
                scores = np.zeros((1, steps * len(self.labels)), np.float32)
            else:
                scores = compute([cut.content], is_alone=not is_forked())
            check_scores(scores[0], "the stream", cut.start / self.sampling_rate)
            span = np.array([[cut.start, cut.start + len(cut.waveform)]])
            for row, (start, end) in zip(*self._by_step(scores, span), strict=True):
                yield start / self.sampling_rate, end / self.sampling_rate, row

    # Windows and steps

    def _timeline_windows(self, window_s: float | None, hop_s: float | None) -> tuple[float, float | None]:
        """Length of the windows of a timeline and distance between them in seconds, with defaults."""
        if not self._has_steps:
            return TIMELINE_WINDOW_S if window_s is None else window_s, hop_s
        step = self._windows.step_samples
        if hop_s is not None:
            wanted = f"None: this model scores steps of {step / self.sampling_rate:.3g} s"
            raise OptionError("hop_s", hop_s, wanted)
        if window_s is None:
            window_s = self._windows.max_samples // step * step / self.sampling_rate
        return window_s, window_s

    def _stream_windows(self, window_s: float | None, hop_s: float | None) -> tuple[int, int, int]:
        """Length of the windows of a stream, distance between windows, and distance between scores, in samples."""
        window_s, hop_s = self._timeline_windows(window_s, hop_s)
        if hop_s is None and isinstance(window_s, int | float):
            hop_s = window_s / 2
        window, hop = self._windows.to_samples(window_s, hop_s)
        return window, hop, self._windows.step_samples if self._has_steps else hop

    def _by_step(self, scores: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and spans in samples, of steps instead of windows if the model has steps."""
        if not self._has_steps:
            return scores, spans
        step, rows, bounds = self._windows.step_samples, [], []
        for window, (start, end) in zip(scores.reshape(len(scores), -1, len(self.labels)), spans, strict=True):
            steps = self._windows.patches(int(end - start))
            starts = start + step * np.arange(steps)
            rows.append(window[:steps])
            bounds.append(np.stack([starts, np.append(starts[1:], end)], axis=1))
        return np.concatenate(rows), np.concatenate(bounds)

    # Computing

    # These take windows with the same number of patches, as waveforms or log-mel spectrograms. If not `is_alone`, other
    # threads compute at the same time.

    def _scores(self, contents: list[np.ndarray], is_alone: bool = False) -> np.ndarray:
        """Class scores `(windows, classes)`."""
        return self._engine.run(self._windows.features(contents), is_alone).probabilities

    def _step_scores(self, contents: list[np.ndarray], is_alone: bool = False) -> np.ndarray:
        """Class scores of all steps of each window in one row `(windows, max. steps · classes)`, zero-padded."""
        steps = self._engine.run(self._windows.features(contents), is_alone).steps
        assert steps is not None
        most = self._windows.target_length // self._windows.patch_size
        return np.pad(steps, [(0, 0), (0, most - steps.shape[1]), (0, 0)]).reshape(len(steps), -1)

    def _embeddings(self, contents: list[np.ndarray], is_alone: bool = False) -> np.ndarray:
        """Pooled embeddings `(windows, embed_dim)`."""
        return self._engine.run(self._windows.features(contents), is_alone).embeddings

    def _run(
        self,
        inputs: Iterable[Any],
        read: Callable[[Any], Iterator[Window]],
        compute: Callable[..., np.ndarray],
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[tuple[Any, InputScores]]:
        """Yields each input with its window scores or its error, in order."""
        if is_single_input(inputs):
            wanted = "a list of inputs; for a single one use `tagger(…)` or `tagger.timeline(…)`"
            raise OptionError("inputs", describe(inputs), wanted)

        inputs = audio_column(inputs)
        return score_inputs(
            inputs,
            read,
            compute,
            self._windows.patches,
            batch_size=self.batch_size,
            # On a CPU, one batch per core is faster than all cores sharing a batch.
            num_workers=self.num_threads if self._engine.device == "cpu" else 1,
            sampling_rate=self.sampling_rate,
            name_of=describe,
            on_audio=on_audio,
        )

    def _selection(
        self,
        top_k: int | None,
        threshold: float | Mapping[str, Any] | None,
        labels: Any,
        exclude: Any = None,
        label_map: Mapping[str, str | None] | None = None,
    ) -> Callable[[np.ndarray], list[Tag]]:
        """Returns a function that turns scores of shape `(classes,)` into tags."""
        if top_k is None and threshold is None and labels is None:
            top_k = TOP_K
        if top_k is not None:
            check_count("top_k", top_k)
        if threshold is not None and not isinstance(threshold, Mapping):
            check_number("threshold", threshold)
        if isinstance(threshold, Mapping):
            choosing = {"labels": labels, "exclude": exclude, "label_map": label_map, "with_silence": True}
            found = class_limits(self.labels, threshold, **choosing, option="threshold")
            choices, limits = [choice for choice, _ in found], np.array([each["threshold"] for _, each in found])
        else:
            choices = choose_classes(self.labels, labels, exclude=exclude, label_map=label_map)
            limits = np.full(len(choices), -np.inf if threshold is None else threshold)
        if threshold is not None and self.problem_type != "regression":
            check_thresholds("threshold", threshold)

        def select(scores: np.ndarray) -> list[Tag]:
            scores = choice_scores(scores, choices)
            order = np.argsort(-scores, kind="stable")
            order = order[scores[order] >= limits[order]][:top_k]
            return [Tag(choices[place].label, float(scores[place]), choices[place].index) for place in order]

        return select


def default_num_threads() -> int:
    """`OMP_NUM_THREADS` if it is set, otherwise the number of CPUs that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": for nested parallel regions
    if given.isdecimal() and 0 < int(given[:9]) <= MAX_THREADS:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _time_finder(start_time: str | datetime | None, timezone: str | None) -> Callable[[Any], str | None]:
    """Returns a function that finds when an input was recorded."""
    start_time = parse_start_time(start_time)
    if start_time is None and timezone is not None:
        raise OptionError("timezone", timezone, "start_time as well, which the time zone is for")
    return partial(recorded_at, start_time=start_time, zone=parse_timezone(timezone))


def _is_list(inputs: Any) -> bool:
    return (isinstance(inputs, Sequence) or hasattr(inputs, "dtype")) and not is_single_input(inputs)


def _as_list(inputs: Any) -> list[Any]:
    return list(inputs) if _is_list(inputs) else [inputs]
