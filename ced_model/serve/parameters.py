# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Parameters and answers of the endpoints. Names and meanings are those of `AudioTagger`'s arguments."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from ..audio import MIX
from ..audio_chunks import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE
from ..events import THRESHOLD
from ..windows import TIMELINE_WINDOW_S
from .settings import Refusal

Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Score = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=MIN_SAMPLING_RATE, le=MAX_SAMPLING_RATE)]
Names = Annotated[str | list[str] | None, Field(description="Classes and groups: one text with commas between names.")]
P = TypeVar("P", bound="Parameters")


class Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(description="Name of a model of this server; by default the first one.")] = ""


class Sound(Parameters):
    """How the audio of a request is read."""

    encoding: Annotated[
        Literal["file", "pcm_s16le", "pcm_f32le"],
        Field(description="A file of any format, .npy included, or bare samples of one channel."),
    ] = "file"
    sampling_rate: Annotated[Rate | None, Field(description="Hz of bare samples; by default the model's.")] = None
    channel: Annotated[
        str, Field(pattern=r"^(mix|loudest|\d{1,4})$", description="mix, loudest, or a number from 0.")
    ] = MIX


class Choice(Parameters):
    labels: Names = None
    exclude: Names = None

    def choosing(self) -> dict[str, Any]:
        return {"labels": self.labels or None, "exclude": self.exclude or None}


class Windows(Parameters):
    window_s: Annotated[Seconds, Field(description="Length of the windows in seconds.")] = TIMELINE_WINDOW_S
    hop_s: Annotated[Seconds | None, Field(description="Between their starts; by default half a window.")] = None


class Classification(Sound, Choice):
    model_config = ConfigDict(extra="ignore")  # LocalAI ignores fields that it does not know

    top_k: Annotated[int, Field(ge=0, description="Tags at most; 0: 5, or all with a threshold or labels.")] = 0
    threshold: Annotated[Score, Field(description="Leave out lower scores.")] = 0.0
    window_s: Annotated[Seconds | None, Field(description="Windows of long clips, by default 10 s.")] = None
    hop_s: Seconds | None = None
    average: Literal["mean", "max"] = "mean"

    def tagging(self) -> dict[str, Any]:
        windows = {"window_s": self.window_s, "hop_s": self.hop_s, "average": self.average}
        return windows | self.choosing() | {"top_k": self.top_k or None, "threshold": self.threshold or None}


class Finding(Choice):
    threshold: Annotated[Score, Field(description="Score from which an event begins.")] = THRESHOLD
    thresholds: Annotated[
        Json[dict[str, Any] | None] | dict[str, Any] | None,
        Field(description='By class, as JSON: {"Dog": 0.3, "*": 0.5}.'),
    ] = None
    off_threshold: Score | None = None
    min_duration_s: Seconds = 0.0
    merge_gap_s: Seconds = 0.0
    max_duration_s: Seconds | None = None
    smooth_s: Seconds = 0.0
    smoothing: Literal["median", "mean"] = "median"

    def finding(self) -> dict[str, Any]:
        """Arguments of `Timeline.events` and `event_rules`."""
        names = ("off_threshold", "min_duration_s", "merge_gap_s", "max_duration_s", "smooth_s", "smoothing")
        thresholds = self.threshold if self.thresholds is None else self.thresholds
        return {"thresholds": thresholds} | {name: getattr(self, name) for name in names} | self.choosing()


class Events(Sound, Windows, Finding):
    pass


class Timeline(Sound, Windows, Choice):
    pass


class Embedding(Sound):
    window_s: Annotated[Seconds | None, Field(description="Windows of long clips, by default 10 s.")] = None


class Stream(Windows, Finding):
    encoding: Literal["pcm_s16le", "pcm_f32le"] = "pcm_s16le"
    sampling_rate: Annotated[Rate | None, Field(description="Hz; by default the model's.")] = None
    top_k: Annotated[int, Field(ge=0)] = 0
    events: Annotated[bool, Field(description="Send events once they are over, beside the tags of windows.")] = False


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
    Checked parameters.

    Raises:
        Refusal: with the first that is wrong.
    """
    try:
        return kind.model_validate({name: value for name, value in values.items() if value not in ("", None)})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = first["loc"][0] if first["loc"] else "parameters"
        if first["type"] == "extra_forbidden":
            raise Refusal(422, f"{name}: not a parameter here; expected {', '.join(kind.model_fields)}") from None
        shown = repr(first["input"])
        shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
        raise Refusal(422, f"{name}={shown}: {first['msg']}") from None
