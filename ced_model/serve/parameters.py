# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Parameters and responses of the endpoints. Parameters are named after arguments of `AudioTagger`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from ..audio import MIX
from ..audio_chunks import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE
from ..events import THRESHOLD, Rule, check_thresholds, event_rules
from ..windows import TIMELINE_WINDOW_S
from .settings import Refusal

Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Score = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=MIN_SAMPLING_RATE, le=MAX_SAMPLING_RATE)]
Names = Annotated[str | list[str] | None, Field(description="Classes and groups, separated by commas.")]
P = TypeVar("P", bound="Parameters")


class Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(description="Name of a model of this server; by default the first one.")] = ""


class Sound(Parameters):
    """Parameters for reading the audio of a request."""

    encoding: Annotated[
        Literal["file", "pcm_s16le", "pcm_f32le"],
        Field(description="A file of any format, including .npy, or raw samples of one channel."),
    ] = "file"
    sampling_rate: Annotated[
        Rate | None, Field(description="Sampling rate of raw samples in Hz; by default that of the model.")
    ] = None
    channel: Annotated[
        str,
        Field(
            pattern=r"^(mix|loudest|\d{1,4})$", description="mix (mean of all), loudest, or a channel number from 0."
        ),
    ] = MIX


class Choice(Parameters):
    labels: Names = None
    exclude: Names = None

    def choosing(self) -> dict[str, Any]:
        return {"labels": self.labels or None, "exclude": self.exclude or None}


class Windows(Parameters):
    window_s: Annotated[Seconds, Field(description="Length of the windows in seconds.")] = TIMELINE_WINDOW_S
    hop_s: Annotated[Seconds | None, Field(description="Seconds between window starts; by default half a window.")] = (
        None
    )


class Classification(Sound, Choice):
    model_config = ConfigDict(extra="ignore")  # unknown fields are ignored, as in LocalAI

    top_k: Annotated[
        int, Field(ge=0, description="Maximum tags; 0 for the default: 5, or all with a threshold or labels.")
    ] = 0
    threshold: Annotated[Score, Field(description="Minimum score.")] = 0.0
    window_s: Annotated[Seconds | None, Field(description="Length of the windows in seconds; by default 10.")] = None
    hop_s: Seconds | None = None
    average: Literal["mean", "max"] = "mean"

    def tagging(self) -> dict[str, Any]:
        windows = {"window_s": self.window_s, "hop_s": self.hop_s, "average": self.average}
        return windows | self.choosing() | {"top_k": self.top_k or None, "threshold": self.threshold or None}


class Finding(Choice):
    threshold: Annotated[Score, Field(description="Minimum score of an event.")] = THRESHOLD
    thresholds: Annotated[
        Json[dict[str, Any] | None] | dict[str, Any] | None,
        Field(description='Thresholds by class, as JSON: {"Dog": 0.3, "*": 0.5}.'),
    ] = None
    off_threshold: Score | None = None
    min_duration_s: Seconds = 0.0
    merge_gap_s: Seconds = 0.0
    max_duration_s: Seconds | None = None
    smooth_s: Seconds = 0.0
    smoothing: Literal["median", "mean"] = "median"

    def finding(self) -> dict[str, Any]:
        """Arguments for `Timeline.events` and `event_rules`."""
        names = ("off_threshold", "min_duration_s", "merge_gap_s", "max_duration_s", "smooth_s", "smoothing")
        thresholds = self.threshold if self.thresholds is None else self.thresholds
        return {"thresholds": thresholds} | {name: getattr(self, name) for name in names} | self.choosing()

    def rules(self, labels: list[str], problem_type: str) -> list[Rule]:
        """Rules for events, with thresholds that scores of the model can reach."""
        finding = self.finding()
        rules = event_rules(labels, **finding)
        if problem_type != "regression":
            check_thresholds("threshold" if self.thresholds is None else "thresholds", finding["thresholds"])
        return rules


class Events(Sound, Windows, Finding):
    pass


class Timeline(Sound, Windows, Choice):
    pass


class Embedding(Sound):
    window_s: Annotated[Seconds | None, Field(description="Length of the windows in seconds; by default 10.")] = None


class Stream(Windows, Finding):
    encoding: Literal["pcm_s16le", "pcm_f32le"] = "pcm_s16le"
    sampling_rate: Annotated[Rate | None, Field(description="Sampling rate in Hz; by default that of the model.")] = (
        None
    )
    top_k: Annotated[int, Field(ge=0)] = 0
    events: Annotated[bool, Field(description="Also send events, when they end.")] = False


class Detection(BaseModel):
    index: int
    label: str
    score: float


class Detections(BaseModel):
    model: str
    detections: list[Detection]


class FoundEvent(BaseModel):
    onset_s: float
    offset_s: float
    label: str
    peak: float


class FoundEvents(BaseModel):
    model: str
    duration_s: float
    events: list[FoundEvent]


class Window(BaseModel):
    start_s: float
    end_s: float
    scores: list[float]


class Scores(BaseModel):
    model: str
    duration_s: float
    labels: list[str]
    windows: list[Window]


class Vector(BaseModel):
    object: str
    index: int
    embedding: list[float]


class Vectors(BaseModel):
    object: str
    model: str
    data: list[Vector]


class ModelEntry(BaseModel):
    id: str
    object: str
    owned_by: str
    classes: int
    sampling_rate: int
    embed_dim: int


class ModelList(BaseModel):
    object: str
    data: list[ModelEntry]


class Problem(BaseModel):
    code: int
    message: str
    type: str


class Problems(BaseModel):
    error: Problem


def parse(kind: type[P], values: Mapping[str, Any]) -> P:
    """
    Checks parameters.

    Raises:
        Refusal: for the first invalid one.
    """
    try:
        return kind.model_validate({name: value for name, value in values.items() if value not in ("", None)})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = first["loc"][0] if first["loc"] else "parameters"
        if first["type"] == "extra_forbidden":
            raise Refusal(422, f"{name}: unknown parameter; expected {', '.join(kind.model_fields)}") from None
        shown = repr(first["input"])
        shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
        raise Refusal(422, f"{name}={shown}: {first['msg']}") from None
