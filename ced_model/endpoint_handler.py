# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Handler for Hugging Face Inference Endpoints, stored as `handler.py` in the folder of a model."""

import base64
import binascii
from typing import Any

import numpy as np
from transformers import pipeline

EXPECTED = (
    'an audio file as the body of the request, or JSON: {"inputs": "UklGR…"} (an audio file in base64),'
    ' {"inputs": {"array": [0.1, …], "sampling_rate": 16000}}, or a list of these as "inputs"'
)


class EndpointHandler:
    """
    Loads the model once and answers requests.

    Args:
        path (`str`): The folder of the model.
    """

    def __init__(self, path: str = "") -> None:
        self.pipeline: Any = pipeline("audio-classification", model=path or ".", trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """
        Answers one request.

        Args:
            data: `inputs`: the bytes of an audio file (or a base64 string), `{"array": …, "sampling_rate": …}`, or a
                list of these. Optional `parameters`: options of the pipeline, such as `top_k`, `threshold`,
                `return_timestamps` and `events`. Paths and URLs are not read.

        Returns:
            The result of the pipeline: a list of `{"label", "score"}`, or a list of such lists for a list.

        Raises:
            ValueError: for an invalid request.
        """
        if not isinstance(data, dict) or data.get("inputs") is None:
            raise ValueError(f"inputs: missing in the request: send {EXPECTED}")
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f'parameters: got {type(parameters).__name__}: send an object, such as {{"top_k": 5}}')
        inputs = data["inputs"]
        audio = [_to_audio(each) for each in inputs] if isinstance(inputs, list) else _to_audio(inputs)
        try:
            return self.pipeline(audio, **parameters)
        except TypeError as error:  # an unknown option
            raise ValueError(f"parameters: {error}") from error


def _to_audio(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        content = value.rpartition("base64,")[2] if value.startswith("data:") else value
        try:
            return base64.b64decode("".join(content.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"inputs: a string that is not base64: send {EXPECTED}") from error
    if isinstance(value, dict) and value.keys() & {"array", "raw"}:
        key = "raw" if value.get("array") is None else "array"
        try:
            array = np.asarray(value.get(key))
        except ValueError as error:
            raise ValueError(f"inputs: the array must contain numbers only: send {EXPECTED}") from error
        if array.dtype.kind in "iu":  # JSON does not distinguish 0.0 from 0
            if np.abs(array).max(initial=0) > 1:
                raise ValueError(f"inputs: an array of integers; its full scale must be 1.0: send {EXPECTED}")
            array = array.astype(np.float32)
        return {**value, key: array}
    raise ValueError(f"inputs: got {type(value).__name__}: send {EXPECTED}")
