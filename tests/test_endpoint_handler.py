# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The handler of converted folders for Hugging Face Inference Endpoints, with and without this package."""

import base64
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import soundfile

from ced_model import AudioTagger
from ced_model.conversion import convert_checkpoint

# Like the service: imports the file in the folder as `handler`.
SERVICE = """
import base64, json, sys
from importlib.util import module_from_spec, spec_from_file_location
sys.modules["ced_model"] = sys.modules["torchaudio"] = None
spec = spec_from_file_location("handler", f"{sys.argv[1]}/handler.py")
module = sys.modules["handler"] = module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(path=sys.argv[1])
body = open(sys.argv[2], "rb").read()
answers = [handler({"inputs": body}), *(handler(json.loads(line)) for line in sys.stdin)]
print(json.dumps([type(handler.pipeline).__module__.split(".")[0], *answers]))
"""


@pytest.fixture(scope="module")
def folder(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_checkpoint(golden / "micro_hub", tmp_path_factory.mktemp("converted") / "ced-micro").folder


@pytest.fixture(scope="module")
def handler(folder: Path) -> Any:
    spec = spec_from_file_location("handler", folder / "handler.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(path=str(folder))


def by_label(tags: list[dict[str, Any]]) -> dict[str, float]:
    return {tag["label"]: tag["score"] for tag in tags}


def test_json_and_raw_audio_are_answered_without_the_package(folder: Path, resources: Path, tmp_path: Path) -> None:
    recording = resources / "misc_crow.flac"
    in_base64 = base64.b64encode(recording.read_bytes()).decode()
    samples, sampling_rate = soundfile.read(recording)
    requests = [
        {"inputs": in_base64, "parameters": {"top_k": 2}},
        {"inputs": f"data:audio/flac;base64,{in_base64}", "parameters": {"top_k": 2}},
        {"inputs": {"array": samples.tolist(), "sampling_rate": sampling_rate}, "parameters": {"top_k": 2}},
        {"inputs": [in_base64, "AAAA"], "parameters": {"top_k": 2, "on_error": "yield", "batch_size": 8}},
        {"inputs": in_base64, "parameters": {"events": True, "threshold": {"class 10": 0.5}}},
    ]
    process = subprocess.run(
        [sys.executable, "-I", "-c", SERVICE, str(folder), str(recording)],
        input="\n".join(map(json.dumps, requests)),
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    module, raw, *answers, events = json.loads(process.stdout.splitlines()[-1])
    assert module == "transformers_modules"
    tagger = AudioTagger(folder)
    assert by_label(raw) == pytest.approx({tag.label: tag.score for tag in tagger(recording)}, abs=1e-5)
    for answer in (*answers[:3], answers[3][0]):
        assert by_label(answer) == pytest.approx({tag.label: tag.score for tag in tagger(recording, top_k=2)}, abs=1e-5)
    assert answers[3][1]["error"].startswith("inputs[1]: <bytes>: ")
    (event,) = tagger.events(recording, {"class 10": 0.5})
    assert events == [{"score": pytest.approx(event.peak, abs=1e-5), "label": "class 10", "timestamp": [*event[:2]]}]


SOUND = base64.b64encode(b"no audio file").decode()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "inputs: missing in the request: send an audio file"),
        ({"inputs": None}, "inputs: missing in the request: send an audio file"),
        ([1], "inputs: missing in the request: send an audio file"),
        ({"inputs": 3}, "inputs: got int: send an audio file"),
        ({"inputs": [0.1, 0.2]}, "inputs: got float: send an audio file"),
        ({"inputs": {"path": "/etc/passwd"}}, "inputs: got dict: send an audio file"),
        ({"inputs": "/etc/passwd.wav"}, "inputs: a string that is not base64: send an audio file"),
        ({"inputs": "http://127.0.0.1/a.wav"}, "inputs: a string that is not base64: send an audio file"),
        (
            {"inputs": {"array": [[1], [1, 2]], "sampling_rate": 16000}},
            "inputs: the array must contain numbers only: send",
        ),
        ({"inputs": {"array": ["a"], "sampling_rate": 16000}}, "inputs: <array>: samples of type <U1: expected"),
        (
            {"inputs": {"array": [0, 2], "sampling_rate": 16000}},
            "inputs: an array of integers; its full scale must",
        ),
        ({"inputs": {"array": [0.1, 0.2]}}, 'inputs: <array>: a dict needs "array"'),
        ({"inputs": b""}, "inputs: <bytes>: holds no audio: the file is empty"),
        ({"inputs": SOUND}, "inputs: <bytes>: "),
        ({"inputs": SOUND, "parameters": [5]}, "parameters: got list: send an object"),
        ({"inputs": SOUND, "parameters": {"topk": 5}}, "parameters: Unknown argument `topk`"),
        ({"inputs": SOUND, "parameters": {"top_k": 0}}, "`top_k=0`: expected a whole number from 1"),
    ],
)
def test_invalid_requests_give_one_line_and_read_neither_files_nor_urls(
    handler: Any, request_: Any, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        handler(request_)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_silence_that_is_integers_in_json_is_accepted(handler: Any) -> None:
    sounds = [{"array": [0] * 8000}, {"array": [0.0] * 8000}, {"raw": [0] * 8000}, {"raw": [0] * 8000, "array": None}]
    answers = [handler({"inputs": {**sound, "sampling_rate": 16000}}) for sound in sounds]
    assert answers == [answers[0]] * 4 and len(answers[0]) == 5


def test_the_endpoint_installs_what_the_handler_needs(folder: Path) -> None:
    assert (folder / "requirements.txt").read_text().split() == ["transformers>=5.23", "soundfile", "soxr"]
