# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced serve`: responses, refusals and limits."""

import asyncio
import base64
import io
import json
import os
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from served import Served, serving

from ced_model import AudioTagger
from ced_model.engines import Outputs
from ced_model.messages import OptionError
from ced_model.serve.settings import ClientGone, Refusal, Settings
from ced_model.serve.work import SharedEngine, Work

CLASSIFICATION = "/v1/audio/classification"
PATHS = (CLASSIFICATION, "/v1/audio/events", "/v1/audio/timeline", "/v1/embeddings")
WAV = {"Content-Type": "audio/wav"}


def wav(samples: np.ndarray, rate: int = 16000, **how: Any) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="WAV", **how)
    return content.getvalue()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def noise(seconds: float = 0.5) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16000)).astype(np.float32)


def problem(response: Any, status: int) -> str:
    """The only line of a refusal."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == status and "\n" not in error["message"] and len(error["message"]) < 400
    return error["message"]


# Responses


def test_the_response_is_compatible_with_clients_of_localai(server: Served, tagger: AudioTagger, resources: Path):
    crow = resources / "misc_crow.flac"
    form = {"model": "ced-nano", "top_k": "3", "threshold": "0.05", "response_format": "json"}
    answer = server.post(CLASSIFICATION, data=form, files={"file": ("crow.flac", crow.read_bytes())}).json()
    assert answer["model"] == "ced-nano" and list(answer) == ["model", "detections"]
    expected = tagger(crow, top_k=3, threshold=0.05)
    assert [(each["index"], each["label"]) for each in answer["detections"]] == [(t.index, t.label) for t in expected]
    assert [each["score"] for each in answer["detections"]] == pytest.approx([t.score for t in expected], abs=1e-6)
    by_default = server.post(CLASSIFICATION, data={"top_k": "0"}, files={"file": crow.read_bytes()}).json()
    assert len(by_default["detections"]) == 5


def test_uploads_raw_bodies_arrays_and_bare_samples_give_the_same_response(server: Served):
    samples = noise()
    pcm = (samples * 32767).astype("<i2")
    as_float = pcm / np.float32(32768)
    bodies: list[dict[str, Any]] = [
        {"files": {"file": wav(pcm)}},
        {"content": wav(pcm), "headers": {"Content-Type": "application/octet-stream"}},
        {"content": npy(as_float), "headers": {"Content-Type": "application/x-npy"}},
        {"content": npy(np.stack([pcm, pcm])), "headers": WAV},
        {"content": pcm.tobytes(), "headers": WAV, "params": {"encoding": "pcm_s16le", "sampling_rate": 16000}},
        {"content": as_float.tobytes(), "headers": WAV, "params": {"encoding": "pcm_f32le"}},
        {"json": {"array": as_float.tolist(), "sampling_rate": 16000}},
        {"json": {"audio": base64.b64encode(wav(pcm)).decode(), "top_k": 5}},
    ]
    answers = [server.post(CLASSIFICATION, **body).json()["detections"] for body in bodies]
    for answer in answers:
        assert [each["label"] for each in answer] == [each["label"] for each in answers[0]]
        assert [each["score"] for each in answer] == pytest.approx([each["score"] for each in answers[0]], abs=1e-5)


def test_events_timelines_and_embeddings_are_those_of_the_library(server: Served, tagger: AudioTagger, tabla):
    source = {"array": tabla[0], "sampling_rate": tabla[1]}
    body = wav(*tabla, subtype="FLOAT")
    options = {"threshold": 0.2, "min_duration_s": 0.5, "exclude": "Musical instrument...", "smooth_s": 3}
    answer = server.post("/v1/audio/events", params=options, content=body, headers=WAV).json()
    expected = tagger.events(source, options.pop("threshold"), **options)
    assert expected and answer["events"] == [pytest.approx(event._asdict(), abs=1e-5) for event in expected]
    by_class = {"thresholds": '{"Music": {"threshold": 0.3, "max_duration_s": 4}}'}
    answer = server.post("/v1/audio/events", data=by_class, files={"file": body}).json()
    assert {event["label"] for event in answer["events"]} == {"Music"} and len(answer["events"]) == 3

    timeline = tagger.timeline(source, hop_s=0.5)
    answer = server.post("/v1/audio/timeline", params={"hop_s": 0.5}, content=body, headers=WAV).json()
    assert answer["labels"] == tagger.labels and answer["duration_s"] == pytest.approx(timeline.duration_s, abs=1e-3)
    assert np.abs([window["scores"] for window in answer["windows"]] - timeline.scores).max() < 1e-5
    chosen = {"labels": ["Music", "Dog..."]}
    assert server.post("/v1/audio/timeline", params=chosen, content=body, headers=WAV).json()["labels"] == [
        "Music",
        "Dog...",
    ]
    (entry,) = server.post("/v1/embeddings", content=body, headers=WAV).json()["data"]
    assert entry["embedding"] == pytest.approx(tagger.embed(source).tolist(), abs=1e-4)


def test_thresholds_of_events_that_no_score_can_have_are_refused(server: Served):
    for field, value in (("threshold", "-1"), ("threshold", "2"), ("thresholds", '{"Dog": 1e999}')):
        refusal = server.post("/v1/audio/events", data={field: value}, files={"file": wav(noise())})
        message = problem(refusal, 422)
        assert message.startswith(field) and message.endswith("expected a score from 0 to 1")


def test_models_are_chosen_by_name_and_no_folders_are_shown(server: Served):
    entries = server.get("/v1/models").json()["data"]
    assert [(entry["id"], entry["classes"]) for entry in entries] == [("ced-nano", 527), ("micro_hub", 13)]
    answer = server.post(CLASSIFICATION, params={"model": "micro_hub"}, content=wav(noise()), headers=WAV).json()
    assert answer["model"] == "micro_hub"
    refusal = server.post(CLASSIFICATION, data={"model": "gpt-4"}, files={"file": wav(noise())})
    assert problem(refusal, 404) == "unknown model 'gpt-4': expected ced-nano, micro_hub"


def test_health_metrics_and_the_api_page_are_served(server: Served):
    assert server.get("/healthz").json() == {"status": "ok"} and server.get("/readyz").json() == {"status": "ready"}
    server.post(CLASSIFICATION, content=b"", headers=WAV)
    server.get("/no/such/path")
    lines = server.get("/metrics").text.splitlines()
    for label in (f'path="{CLASSIFICATION}",status="422"', 'path="other",status="404"'):
        assert any(line.startswith(f"ced_requests_total{{{label}}}") for line in lines)
    page = server.get("/openapi.json").json()
    assert set(PATHS) <= set(page["paths"]) and server.get("/docs").status_code == 200
    form = page["paths"][CLASSIFICATION]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"file", "model", "top_k", "threshold"} <= set(form["properties"])


# Refusals


@pytest.mark.parametrize(
    ("request_", "status", "line"),
    [
        ({"content": b"", "headers": WAV}, 422, "holds no audio: the file is empty"),
        ({"content": b"hello\n" * 100, "headers": WAV}, 422, "the audio cannot be read: "),
        ({"content": wav(noise())[:40], "headers": WAV}, 422, "the audio cannot be read: "),
        ({"content": wav(np.full(9, np.nan), subtype="FLOAT"), "headers": WAV}, 422, "a sample is NaN or infinite"),
        ({"content": wav(noise()), "headers": {"Content-Type": "text/plain"}}, 415, "content type 'text/plain'"),
        ({"data": {"top_k": "1"}}, 415, "content type 'application/x-www-form-urlencoded'"),
        ({"content": b"x", "headers": WAV | {"Content-Encoding": "gzip"}}, 415, "content encoding 'gzip'"),
        ({"files": {"audio": b"x"}}, 400, "a file in the field 'audio': expected it in the field 'file'"),
        ({"files": [("file", b"x"), ("file", b"y")]}, 400, "more than one file"),
        ({"files": {"file": b""}}, 422, "holds no audio: the file is empty"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "requires a boundary"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "not a valid"),
        (
            {"content": b"x", "headers": {"Content-Type": f"multipart/form-data; boundary={'b' * 999}"}},
            400,
            "not a valid",
        ),
        (
            {"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            400,
            "body is incomplete",
        ),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "the body is not valid JSON"),
        ({"json": [1]}, 400, "the JSON body must be an object"),
        ({"json": {"top_k": 1}}, 400, 'the JSON body requires "array"'),
        ({"json": {"array": ["a"], "sampling_rate": 16000}}, 422, '"array" must be a list of numbers'),
        ({"json": {"array": [[1], [1, 2]], "sampling_rate": 16000}}, 422, '"array" must be a list of numbers'),
        ({"json": {"array": 5, "sampling_rate": 16000}}, 422, '"array" must be a list of numbers'),
        ({"json": {"array": [0.1, 0.2]}}, 422, '"array" requires "sampling_rate"'),
        ({"json": {"array": [], "sampling_rate": 16000}}, 422, "the audio cannot be read: "),
        ({"json": {"audio": "§§§"}}, 400, '"audio" is not a base64 string'),
        ({"content": npy(np.array([{}], dtype=object)), "headers": WAV}, 422, "it has Python objects"),
        ({"content": npy(np.zeros(9, complex)), "headers": WAV}, 422, "samples of type complex128"),
        ({"content": npy(np.zeros(9))[:-8], "headers": WAV}, 422, "the .npy file cannot be read: "),
        (
            {"content": b"abc", "headers": WAV, "params": {"encoding": "pcm_s16le"}},
            422,
            "expected 2 bytes per sample of pcm_s16le, received 3 bytes",
        ),
        ({"content": wav(noise()), "headers": WAV, "params": {"top_k": -1}}, 422, "top_k='-1': "),
        ({"content": wav(noise()), "headers": WAV, "params": {"threshold": "nan"}}, 422, "threshold='nan': "),
        ({"content": wav(noise()), "headers": WAV, "params": {"labels": "Dgo"}}, 422, "did you mean 'Dog'?"),
        ({"content": wav(noise()), "headers": WAV, "params": {"window_s": 99}}, 422, "window_s=99.0: expected "),
        ({"content": wav(noise()), "headers": WAV, "params": {"channel": "left"}}, 422, "channel='left': "),
        ({"content": wav(noise()), "headers": WAV, "params": {"channel": "3"}}, 422, "there is no channel 3"),
    ],
)
def test_a_bad_request_is_refused_with_its_status_and_one_line(
    server: Served, request_: dict[str, Any], status: int, line: str
):
    assert line in problem(server.post(CLASSIFICATION, **request_), status)


def test_a_file_that_is_cut_off_is_answered_with_a_warning(server: Served):
    answer = server.post(CLASSIFICATION, content=wav(noise())[:8044], headers=WAV)
    assert answer.status_code == 200
    assert answer.headers["X-Warning"] == "truncated, only 0.2 s can be read (about 0.5 s according to its header)"
    assert "X-Warning" not in server.post(CLASSIFICATION, content=wav(noise()), headers=WAV).headers


def test_unknown_parameters_paths_and_methods_are_refused(server: Served):
    refusal = server.post("/v1/audio/events", params={"treshold": 0.3}, content=wav(noise()), headers=WAV)
    assert problem(refusal, 422).startswith("treshold: unknown parameter; expected model, ")
    many = server.post("/v1/audio/timeline", params={"hop_s": 1e-5}, content=wav(noise()), headers=WAV)
    assert problem(many, 413).startswith("more than 20000 windows")
    assert problem(server.get("/v1/audio"), 404) == "unknown path; /docs lists the paths"
    refusal = server.get(CLASSIFICATION)
    assert problem(refusal, 405) == "this path has no such method" and refusal.headers["Allow"] == "POST"


def test_a_key_is_required_except_for_health_checks(strict: Served):
    assert strict.get("/v1/models").status_code == 200
    assert strict.get("/ced/v1/models").status_code == 200  # behind a proxy that keeps the path
    assert strict.get("/v1/models", headers={"Authorization": "", "X-API-Key": "secret"}).status_code == 200
    for path in ("/v1/models", "/metrics", "/no/such/path", "/ced/v1/models"):
        for key in ("", "Bearer", "Bearer wrong", "Bearer sécret", "Basic secret"):
            refusal = strict.get(path, headers={"Authorization": key.encode("latin-1")})
            assert "missing or wrong API key" in problem(refusal, 401)
            assert refusal.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/docs", "/ced/healthz", "/ced/docs"):
        assert strict.get(path, headers={"Authorization": ""}).status_code == 200
    assert strict.get("/openapi.json").json()["servers"] == [{"url": "/ced"}]


# Limits


def test_requests_that_are_too_large_or_too_long_are_refused(strict: Served, server: Served):
    assert problem(strict.post(CLASSIFICATION, content=bytes(700_000), headers=WAV), 413) == (
        "the body is too large: expected at most 0.5 MB"
    )
    chunks = strict.post(CLASSIFICATION, content=(bytes(100_000) for _ in range(9)), headers=WAV)  # without a length
    assert "the body is too large" in problem(chunks, 413)
    for body in (wav(np.zeros(8000 * 7), 8000), npy(np.zeros(8000 * 7, np.int8))):
        refusal = strict.post(CLASSIFICATION, content=body, headers=WAV, params={"sampling_rate": 8000})
        assert problem(refusal, 413) == "the recording is too long: expected at most 0.1 minutes"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = (
            f"POST {CLASSIFICATION} HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: {2**32}\r\n\r\n"
        )
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_small_file_that_unpacks_to_hours_is_refused_before_it_is_decoded_to_its_end(strict: Served):
    content = io.BytesIO()
    with soundfile.SoundFile(content, "w", 8000, 2, "PCM_16", format="FLAC") as file:
        for _ in range(60):
            file.write(np.zeros((8000 * 60, 2), np.int16))
    data = bytearray(content.getvalue())
    data[21] &= 0xF0  # as from an encoder that writes to a pipe
    data[22:26] = bytes(4)
    for channel in ("mix", "loudest"):
        refusal = strict.post(CLASSIFICATION, content=bytes(data), headers=WAV, params={"channel": channel})
        assert "too long" in problem(refusal, 413)


def test_clients_that_send_nothing_are_disconnected_and_the_others_served(strict: Served):
    slow = [socket.create_connection(("127.0.0.1", strict.port)) for _ in range(30)]
    head = f"POST {CLASSIFICATION} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 1000\r\n"
    for client in slow:
        client.sendall(f"{head}Content-Type: audio/wav\r\n\r\nRIFF".encode())
    assert strict.post(CLASSIFICATION, content=wav(noise()), headers=WAV).status_code == 200
    for client in slow:
        with client:
            assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_clients_that_do_not_read_their_response_are_disconnected(server: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ced_model.serve.server.UNREAD_S", 0.2)
    body = wav(noise(40))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        head = "POST /v1/audio/timeline?window_s=0.2&hop_s=0.05 HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        for is_running in (True, False):
            while bool(server.running) != is_running:
                time.sleep(0.01)
        answer = b""
        with suppress(ConnectionResetError):
            while piece := client.recv(2**20):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ") and not answer.endswith(b"0\r\n\r\n")


def test_nothing_of_a_request_is_written_to_the_disk(server: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    opened: list[str] = []
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(path))
    body = wav(noise(60))
    assert len(body) > 2**20 and server.post(CLASSIFICATION, files={"file": body}).status_code == 200
    assert opened == []


def test_requests_wait_for_their_turn_and_further_ones_are_refused():
    async def scenario() -> None:
        work, finish = Work(Settings(max_waiting=1), running=1), threading.Event()

        async def stay() -> dict[str, str]:
            await asyncio.sleep(3600)
            return {"type": "http.disconnect"}

        first = asyncio.ensure_future(work.run(stay, lambda _: finish.wait()))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(work.run(stay, lambda _: "second"))
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal, match="1 requests are already waiting") as refused:
            await work.run(stay, lambda _: "third")
        assert refused.value.status == 503 and refused.value.retry_after_s >= 1
        assert refused.value.response().headers["Retry-After"] == str(refused.value.retry_after_s)
        finish.set()
        assert await first is True and await second == "second"

    asyncio.run(scenario())


def test_the_work_for_a_client_that_disconnects_ends():
    async def scenario() -> None:
        work = Work(Settings(), running=1)

        async def leave() -> dict[str, str]:
            await asyncio.sleep(0.02)
            return {"type": "http.disconnect"}

        def compute(budget: Any) -> None:
            while True:
                budget.check()

        with pytest.raises(ClientGone):
            await work.run(leave, compute)

    asyncio.run(scenario())


def test_requests_that_run_too_long_are_ended(tagger: AudioTagger):
    for limit, status, line in (
        ("timeout_s", 503, "computing took longer"),
        ("decode_timeout_s", 422, "decoding took"),
    ):
        with serving([tagger], Settings(**{limit: 1e-6})) as slow:
            assert line in problem(slow.post(CLASSIFICATION, content=wav(noise()), headers=WAV), status)


@pytest.mark.parametrize(
    "options",
    [
        {"max_megabytes": 0},
        {"max_minutes": float("nan")},
        {"max_waiting": 0},
        {"max_streams": 1.5},
        {"body_timeout_s": float("inf")},
        {"api_key": ""},
        {"api_key": "two words"},
        {"root_path": "ced"},
        {"root_path": "/ced/"},
    ],
)
def test_impossible_settings_are_refused_by_name(options: dict[str, Any]):
    with pytest.raises(OptionError, match=next(iter(options))) as error:
        Settings(**options)
    assert "two words" not in str(error.value)


def test_simultaneous_requests_get_their_own_results(server: Served, tagger: AudioTagger):
    clips = [wav(noise(seconds) * seconds) for seconds in (0.3, 0.5, 0.5, 1.0, 2.0, 0.3)]
    expected = [json.dumps([tag.label for tag in tagger(clip)]) for clip in clips]
    found: list[list[str]] = [[] for _ in clips]

    def ask(number: int) -> None:
        for _ in range(4):
            answer = server.post(CLASSIFICATION, content=clips[number], headers=WAV).json()
            found[number].append(json.dumps([each["label"] for each in answer["detections"]]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[labels] * 4 for labels in expected]


class Recorder:
    """An engine whose calls block until they are released; it records the sizes of its batches."""

    name, compute_type, device = "torch", "float32", "cpu"

    def __init__(self) -> None:
        self.batches: list[tuple[int, bool]] = []
        self.go = threading.Semaphore(0)

    def run(self, log_mels: np.ndarray, is_alone: bool) -> Outputs:
        self.batches.append((len(log_mels), is_alone))
        self.go.acquire()
        if log_mels.shape[2] == 9:
            raise ValueError("nine")
        return Outputs(log_mels[:, :, 0] + 1, log_mels[:, :, 0] + 2)


@pytest.mark.parametrize(
    ("name", "frames", "sizes"),
    [("torch", 8, [1, 3, 1, 1]), ("onnx", 8, [1, 3, 1, 1]), ("onnx", 800, [1, 1, 1, 1, 1, 1])],
)
def test_short_windows_of_equal_length_share_a_batch_while_the_engine_is_busy(name, frames, sizes, monkeypatch):
    monkeypatch.setattr(Recorder, "name", name)
    engine = Recorder()
    shared = SharedEngine(engine, num_threads=1, batch_size=3)
    results: dict[int, Any] = {}

    def ask(number: int, frames: int) -> None:
        try:
            results[number] = shared.run(np.full((1, 2, frames), number, np.float32), is_alone=True)
        except ValueError as error:
            results[number] = error

    threads = [
        threading.Thread(target=ask, args=each) for each in enumerate([frames, frames, frames, 9, frames, frames])
    ]
    for number, thread in enumerate(threads):
        thread.start()
        while len(shared._waiting) < number:  # the first one is not queued
            time.sleep(0.001)
    for _ in threads:
        engine.go.release()
    for thread in threads:
        thread.join()
    assert sorted(size for size, _ in engine.batches) == sorted(sizes) and engine.batches[0] == (1, True)
    assert isinstance(results.pop(3), ValueError)
    for number, outputs in results.items():
        assert outputs.probabilities.tolist() == [[number + 1] * 2]
        assert outputs.embeddings.tolist() == [[number + 2] * 2]
