# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio classification pipeline for CED."""

from .custom_code import MIN_TRANSFORMERS as MIN_TRANSFORMERS  # checks the version of transformers

# isort: split

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import soundfile as _soundfile  # noqa: F401  # transformers reports missing packages that are imported here
import soxr as _soxr  # noqa: F401
import torch
from transformers.pipelines.audio_classification import AudioClassificationPipeline
from transformers.pipelines.base import Pipeline
from transformers.pipelines.pt_utils import PipelineIterator

from .audio import MIX, AudioError
from .dataset_columns import audio_column
from .evaluation_mode import in_evaluation_mode
from .events import check_thresholds, event_rules
from .forking import is_forked
from .messages import OptionError, check_count, check_number, one_line
from .pipeline_inputs import is_single, rows_of, to_input
from .results import Timeline
from .scheduling import InputScores, score_inputs
from .windows import CPU_BATCH_SIZE, GPU_BATCH_SIZE, TIMELINE_WINDOW_S, ModelWindows, ReadWindows

TOP_K = 5
EVENT_THRESHOLD = 0.5
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(dim=-1),
    "none": lambda logits: logits,
}
DEFAULT_FUNCTIONS = {"multi_label_classification": "sigmoid", "regression": "none"}


@dataclass(frozen=True)
class Options:
    """Options of a call, see [`CedAudioClassificationPipeline.__call__`]."""

    top_k: int | str | None = "auto"
    threshold: float | Mapping[str, float] | None = None
    function_to_apply: str | None = None
    return_timestamps: bool = False
    events: bool = False
    window_s: float | None = None
    hop_s: float | None = None
    average: str = "mean"
    min_duration_s: float = 0.0
    merge_gap_s: float = 0.0
    sampling_rate: int | None = None
    channel: str | int = MIX
    on_error: str = "raise"

    def check(self, labels: list[str], problem_type: str | None) -> None:
        """Raises an [`OptionError`] for an invalid value."""
        if self.top_k is not None and self.top_k != "auto":
            check_count("top_k", self.top_k, "a whole number from 1, or None for all classes")
        for name, choices in (
            ("function_to_apply", (None, *FUNCTIONS)),
            ("return_timestamps", (True, False)),
            ("events", (True, False)),
            ("average", ("mean", "max")),
            ("on_error", ("raise", "yield")),
        ):
            value = getattr(self, name)
            if not isinstance(value, str | bool | None) or value not in choices:
                raise OptionError(name, value, " or ".join(map(str, choices)))
        if self.events:
            finding: dict[str, Any] = {"min_duration_s": self.min_duration_s, "merge_gap_s": self.merge_gap_s}
            try:
                event_rules(labels, self.event_thresholds, **finding)
            except OptionError as error:
                name = error.name.replace("thresholds", "threshold")
                raise OptionError(name, error.value, error.expected) from error
        elif self.threshold is not None:
            check_number("threshold", self.threshold)
        if self.threshold is not None and self.function(problem_type) != "none":
            check_thresholds("threshold", self.threshold)

    def function(self, problem_type: str | None) -> str:
        """The function that is applied to logits: `function_to_apply`, or the default of the problem type."""
        return self.function_to_apply or DEFAULT_FUNCTIONS.get(problem_type or "", "softmax")

    @property
    def event_thresholds(self) -> float | Mapping[str, float]:
        return EVENT_THRESHOLD if self.threshold is None else self.threshold


class CedAudioClassificationPipeline(AudioClassificationPipeline):
    """
    Audio classification pipeline for CED models. It takes files, URLs, arrays and `datasets` rows, and returns tags,
    timelines or events.

    `pipeline("audio-classification", model=…)` returns this class for CED models, after `import ced_model` or with
    `trust_remote_code=True`. It decodes and resamples audio without an ffmpeg binary or torchaudio. Scores are the same
    as those of `AudioTagger`.

    Args:
        model ([`CedForAudioClassification`]):
            The classifier; it is run in evaluation mode.
        feature_extractor ([`CedFeatureExtractor`]):
            The feature extractor of the model.
        batch_size (`int`, *optional*):
            Maximum number of windows computed together, by default 4 on a CPU and 32 on other devices. Scores do not
            depend on it, since all windows of a batch have the same length.
        kwargs:
            Defaults for the options of [`~CedAudioClassificationPipeline.__call__`].

    Example:

    ```python
    >>> import ced_model
    >>> from transformers import pipeline

    >>> pipe = pipeline("audio-classification", model="mispeech/ced-tiny")
    >>> tags = pipe("resources/misc_crow.flac", top_k=3)
    >>> events = pipe("resources/loop_tabla.flac", events=True, threshold=0.3)
    ```
    """

    model: Any
    feature_extractor: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in ("local_files_only", "framework"):  # `pipeline` passes them on
            kwargs.pop(name, None)
        # AudioClassificationPipeline would set a `top_k` and accept only models of transformers.
        Pipeline.__init__(self, *args, **kwargs)
        if not hasattr(self.model, "classify"):
            wanted = "a CED classifier (AutoModelForAudioClassification)"
            raise OptionError("model", type(self.model).__name__, wanted)
        if not hasattr(self.feature_extractor, "front_end"):
            raise OptionError("feature_extractor", type(self.feature_extractor).__name__, "a CedFeatureExtractor")
        self._check(self._postprocess_params, self._batch_size)

    def _sanitize_parameters(self, **options: Any) -> Any:  # type: ignore[override]
        known = [field.name for field in fields(Options)]
        if unknown := sorted(options.keys() - set(known)):
            expected = ", ".join(known)
            raise TypeError(f"Unknown argument `{unknown[0]}` of {type(self).__name__}: its options are {expected}")
        return {}, {}, options

    def _check(self, options: dict[str, Any], batch_size: Any) -> tuple[Options, int, ReadWindows]:
        """Returns the checked options, the batch size, and a function that reads an input as windows."""
        checked = Options(**options)
        checked.check(self._labels, self.model.config.problem_type)
        if batch_size is None:
            batch_size = CPU_BATCH_SIZE if self.device.type == "cpu" else GPU_BATCH_SIZE
        check_count("batch_size", batch_size)
        if checked.return_timestamps or checked.events:
            window_s = TIMELINE_WINDOW_S if checked.window_s is None else checked.window_s
            read = self._windows.of_timelines(window_s, checked.hop_s, checked.sampling_rate, checked.channel)
        else:
            read = self._windows.of_clips(
                checked.window_s, checked.hop_s, checked.sampling_rate, checked.channel, checked.average
            )
        return checked, batch_size, read

    @property
    def _labels(self) -> list[str]:
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    @property
    def _windows(self) -> ModelWindows:
        config = self.model.config
        return ModelWindows(self.feature_extractor.front_end, config.target_length, config.patch_size)

    def __call__(  # type: ignore[override]
        self, inputs: Any, num_workers: int | None = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """
        Classifies one or several recordings.

        Clips of up to `target_length` frames (10.12 s for the published models) are classified in one piece. Longer
        clips are split into windows of 10 s; their scores are the mean of the window scores, weighted by duration.

        Args:
            inputs (`Any`): A path, a URL, the bytes of a file, a waveform (array or tensor of shape `(samples,)`),
                `{"array" or "raw": waveform, "sampling_rate": Hz}` of shape `(samples,)` or `(channels, samples)`, the
                audio of a `datasets` row (decoded or not), or a list, generator or dataset of these, such as
                `KeyDataset(dataset, "audio")`.
            num_workers (`int`, *optional*): Ignored; inputs are always read in background threads.
            batch_size (`int`, *optional*): As for the class.
            top_k (`int`, *optional*): Number of labels to return, `None` for all. By default 5, or all if a `threshold`
                is given. With `events`, the number of events to return, by default all.
            threshold (`float`, *optional*): Minimum score of returned labels. With `events`, the score from which a
                class is present, by default 0.5, or a dictionary of such scores by label.
            function_to_apply (`str`, *optional*): `"sigmoid"`, `"softmax"` or `"none"`, applied to the logits of each
                window. By default `"sigmoid"` for multi-label models, `"none"` for regression and else `"softmax"`.
            return_timestamps (`bool`): Return the labels of each window of a recording.
            events (`bool`): Return when each class occurs.
            window_s, hop_s (`float`, *optional*): Length of the windows and distance between their starts in seconds.
                With `return_timestamps` or `events`, by default 2 s and half a window.
            average (`str`): How the window scores of a clip are combined: `"mean"`, or `"max"` to find short sounds,
                which uses windows of 2 s by default.
            min_duration_s, merge_gap_s (`float`): Minimum duration of events, and longest gap between two events of a
                class that are merged.
            sampling_rate (`int`, *optional*): Sampling rate of bare arrays in Hz, by default that of the model.
            channel (`str` or `int`): `"mix"` averages the channels, 0, 1, … takes one, `"loudest"` takes the loudest.
            on_error (`str`): `"raise"`, or `"yield"` to return `{"error": message}` for an input that cannot be read
                and continue with the others.

        Returns:
            A list of dictionaries with `label` and `score`, highest score first. With `return_timestamps` or `events`,
            they also have a `timestamp` (start and end in seconds) and are ordered by it; the `score` of an event is
            its maximum. For a list of inputs, a list of such lists; for a generator or dataset, an iterator over them.

        Raises:
            AudioError: if an input cannot be read; the message has its index in `inputs`.
            ValueError: for an invalid option.
        """
        if num_workers is not None and (isinstance(num_workers, bool) or not isinstance(num_workers, int)):
            raise OptionError("num_workers", num_workers, "a whole number, or None")  # maybe a second input
        _, _, call = self._sanitize_parameters(**kwargs)
        options, size, read = self._check(
            {**self._postprocess_params, **call}, self._batch_size if batch_size is None else batch_size
        )
        self.call_count += 1
        if is_single(inputs):
            return self.postprocess(("inputs", next(self._score([inputs], options, size, read))[1]), options)
        inputs, is_list = audio_column(inputs), isinstance(inputs, list | tuple)
        scored = _Restartable(inputs, partial(self._score, inputs, options, size, read))
        results = PipelineIterator(scored, self.postprocess, {"options": options})
        return list(results) if is_list else results

    def _score(
        self, inputs: Iterable[Any], options: Options, batch_size: int, read: ReadWindows
    ) -> Iterator[tuple[str, InputScores]]:
        """Yields the name of each input with its window scores or its error."""
        sources, take = rows_of(inputs)
        function = FUNCTIONS[options.function(self.model.config.problem_type)]

        def compute(waveforms: list[np.ndarray], is_alone: bool = False) -> np.ndarray:
            if is_forked():
                torch.set_num_threads(1)  # the thread pool exists only in the parent process
            logits = self.forward({"input_values": torch.from_numpy(self._windows.features(waveforms))})["logits"]
            return function(logits.float()).numpy()

        scored = score_inputs(
            sources,
            lambda source: read(to_input(take(source))),
            compute,
            self._windows.patches,
            batch_size=batch_size,
            num_workers=1,
            sampling_rate=self.feature_extractor.sampling_rate,
            name_of=lambda source: "this input",
        )
        for index, (_, state) in enumerate(scored):
            yield f"inputs[{index}]", state

    def _forward(self, model_inputs: Any) -> Any:  # type: ignore[override]
        return in_evaluation_mode(self.model)(**model_inputs)

    def postprocess(self, scored: tuple[str, InputScores], options: Options) -> Any:  # type: ignore[override]
        name, state = scored
        if state.error is not None:
            message = f"{name}: {one_line(state.error) or type(state.error).__name__}"
            if options.on_error == "yield":
                return {"error": message}
            raise AudioError(message) from state.error
        labels, spans = self._labels, state.spans / self.feature_extractor.sampling_rate
        if options.events:
            timeline = Timeline(state.scores, spans[:, 0], spans[:, 1], labels)
            events = timeline.events(options.event_thresholds, options.min_duration_s, options.merge_gap_s)
            if not isinstance(options.top_k, str | None):
                highest = sorted(events, key=lambda event: -event.peak)[: options.top_k]
                events = [event for event in events if event in highest]
            return [
                {"score": event.peak, "label": event.label, "timestamp": (event.onset_s, event.offset_s)}
                for event in events
            ]
        if options.return_timestamps:
            return [
                {**tag, "timestamp": (start_s, end_s)}
                for scores, (start_s, end_s) in zip(state.scores, spans.tolist(), strict=True)
                for tag in _select(scores, labels, options)
            ]
        return _select(state.average(options.average), labels, options)


def _select(scores: np.ndarray, labels: list[str], options: Options) -> list[dict[str, Any]]:
    """Labels of scores `(classes,)` selected by `top_k` and `threshold`, highest score first."""
    top_k = (TOP_K if options.threshold is None else None) if options.top_k == "auto" else options.top_k
    order = np.argsort(-scores, kind="stable")[:top_k]
    if options.threshold is not None:
        order = order[scores[order] >= options.threshold]
    return [{"score": float(scores[index]), "label": labels[index]} for index in order]


class _Restartable:
    """An iterable of results that can be iterated again, with the length of `inputs` if they have one."""

    def __init__(self, inputs: Any, start: Callable[[], Iterator[Any]]) -> None:
        self.inputs, self.start = inputs, start

    def __iter__(self) -> Iterator[Any]:
        return self.start()

    def __len__(self) -> int:
        return len(self.inputs)


__all__ = ["CedAudioClassificationPipeline"]
