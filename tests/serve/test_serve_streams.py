# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Live audio over WebSockets: `/v1/audio/stream` and `/v1/realtime`."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from served import Served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ced_model import AudioTagger

END = json.dumps({"type": "end"})


def stream(server: Served, query: str, messages: list[bytes | str]) -> tuple[list[dict[str, Any]], ClientConnection]:
    """All messages for a stream, and the connection, which the server has closed."""
    with connect(server.websocket(f"/v1/audio/stream?{query}"), proxy=None) as socket:
        for message in messages:
            socket.send(message)
        answers: list[dict[str, Any]] = []
        try:
            while True:
                answers.append(json.loads(socket.recv()))
        except ConnectionClosed:
            return answers, socket


def pieces(data: bytes, size: int) -> list[bytes | str]:
    return [*(data[start : start + size] for start in range(0, len(data), size)), END]


@pytest.mark.parametrize(("encoding", "scale", "kind"), [("pcm_s16le", 32767, "<i2"), ("pcm_f32le", 1, "<f4")])
def test_a_stream_is_scored_as_the_recording_is(server: Served, tagger: AudioTagger, tabla, encoding, scale, kind):
    samples = (tabla[0] * scale).astype(kind)
    timeline = tagger.timeline({"array": samples, "sampling_rate": tabla[1]})
    query = f"encoding={encoding}&sampling_rate={tabla[1]}&top_k=527&events=1&threshold=0.2&merge_gap_s=1"
    answers, socket = stream(server, query, pieces(samples.tobytes(), 30_001))  # messages end within samples
    updates = [answer for answer in answers if answer["type"] == "update"]
    scores = np.zeros_like(timeline.scores)
    for row, update in zip(scores, updates, strict=True):
        for tag in update["tags"]:
            row[tag["index"]] = tag["score"]
    assert np.abs(scores - timeline.scores).max() < 1e-4
    assert [update["start_s"] for update in updates] == pytest.approx(timeline.start_s.tolist(), abs=1e-6)
    events = [answer for answer in answers if answer.pop("type") == "event"]
    expected = [event._asdict() for event in timeline.events(0.2, merge_gap_s=1)]
    assert sorted(events, key=str) == [pytest.approx(event, abs=1e-4) for event in sorted(expected, key=str)]
    assert answers[-1] == {"duration_s": pytest.approx(len(samples) / tabla[1])} and socket.close_code == 1000


def test_the_tags_of_a_window_are_sent_as_soon_as_its_audio_has_arrived(server: Served):
    with connect(server.websocket("/v1/audio/stream?top_k=1"), proxy=None) as socket:
        socket.send(bytes(2 * 32_000))
        assert json.loads(socket.recv())["end_s"] == 2
        socket.send(bytes(2 * 16_000))
        assert json.loads(socket.recv())["end_s"] == 3


@pytest.mark.parametrize(
    ("messages", "code", "reason"),
    [
        ([bytes(5), END], 1007, "the stream ends within a sample of pcm_s16le"),
        (["hello"], 1007, 'expected samples in binary messages, or the text {"type": "end"}'),
        ([bytes(2**20 + 2)], 1009, "the message is too large: expected at most 1048576 bytes"),
    ],
)
def test_a_stream_that_is_not_samples_ends_with_the_reason(server: Served, messages, code, reason):
    answers, socket = stream(server, "", messages)
    assert answers == [{"type": "error", "message": reason}]
    assert (socket.close_code, socket.close_reason) == (code, reason)


def test_samples_that_are_not_finite_end_the_stream(server: Served):
    answers, socket = stream(server, "encoding=pcm_f32le", [np.full(8000, np.nan, "<f4").tobytes()])
    assert "NaN or infinite" in answers[-1]["message"] and socket.close_code == 1007


@pytest.mark.parametrize(
    ("path", "status", "line"),
    [
        ("audio/stream?model=x", 404, "unknown model 'x'"),
        ("audio/stream?encoding=mp3", 422, "encoding='mp3': "),
        ("audio/stream?hop_s=9", 422, "hop_s=9.0: expected "),
        ("audio/stream?labels=Dgo", 422, "did you mean 'Dog'?"),
        ("audio/stream?rate=8000", 422, "rate: unknown parameter"),
        ("realtime?model=x", 404, "unknown model 'x'"),
        ("realtime?top_k=x", 422, "top_k='x': "),
    ],
)
def test_a_bad_stream_is_refused_before_it_begins(server: Served, path: str, status: int, line: str):
    with pytest.raises(InvalidStatus) as refused:
        connect(server.websocket(f"/v1/{path}"), proxy=None)
    assert refused.value.response.status_code == status
    assert line in json.loads(refused.value.response.body)["error"]["message"]


def test_streams_need_the_key_and_are_limited_in_number_and_silence(strict: Served):
    url = strict.websocket("/v1/audio/stream")
    with pytest.raises(InvalidStatus, match="401"):
        connect(url, proxy=None)
    key: dict[str, Any] = {"additional_headers": {"Authorization": "Bearer secret"}, "proxy": None}
    with connect(url, **key) as socket:
        with pytest.raises(InvalidStatus) as refused:
            connect(url, **key)
        assert refused.value.response.status_code == 503 and refused.value.response.headers["Retry-After"]
        assert json.loads(socket.recv()) == {"type": "error", "message": "no message for 0.3 s"}
        with pytest.raises(ConnectionClosed):
            socket.recv()
        assert socket.close_code == 1008
    # OpenAI's clients in browsers send the key like this.
    protocols: Any = ["realtime", "openai-insecure-api-key.secret"]
    with connect(strict.websocket("/v1/realtime"), subprotocols=protocols, proxy=None) as socket:
        assert socket.subprotocol == "realtime" and json.loads(socket.recv())["type"] == "session.created"


class Realtime:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.session = self.receive("session.created")["session"]

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, "event_id": "mine"} | fields))

    def receive(self, kind: str) -> dict[str, Any]:
        event = json.loads(self.socket.recv())
        assert event["type"] == kind and event["event_id"].startswith("event_"), event
        return event

    def problem(self) -> tuple[str, str]:
        error = self.receive("error")["error"]
        assert error["type"] == "invalid_request_error"
        return error["code"], error["message"]


def test_realtime_sessions_are_compatible_with_clients_of_localai(server: Served, tagger: AudioTagger, tabla):
    samples = (tabla[0] * 32767).astype("<i2")
    with connect(server.websocket("/v1/realtime?model=ced-nano"), proxy=None) as socket:
        realtime = Realtime(socket)
        assert realtime.session["model"] == "ced-nano" and realtime.session["object"] == "realtime.session"
        assert realtime.session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
        layout = {"format": {"type": "audio/pcm", "rate": tabla[1]}, "turn_detection": None}
        realtime.send("session.update", session={"type": "realtime", "audio": {"input": layout}})
        assert realtime.receive("session.updated")["session"]["audio"]["input"] == layout
        for start in range(0, len(samples), 100_000):
            audio = base64.b64encode(samples[start : start + 100_000].tobytes()).decode()
            realtime.send("input_audio_buffer.append", audio=audio)
        realtime.send("input_audio_buffer.commit")
        item_id = realtime.receive("input_audio_buffer.committed")["item_id"]
        event = realtime.receive("conversation.item.sound_detection")
        assert (event["item_id"], event["content_index"]) == (item_id, 0)
        expected = tagger({"array": samples, "sampling_rate": tabla[1]}, top_k=5)
        assert [list(each.values()) for each in event["detections"]] == [
            [tag.index, tag.label, pytest.approx(tag.score, abs=1e-5)] for tag in expected
        ]


def test_a_realtime_session_continues_after_invalid_events(server: Served):
    with connect(server.websocket("/v1/realtime"), proxy=None) as socket:
        realtime = Realtime(socket)
        socket.send("nonsense")
        assert realtime.problem() == ("invalid_json", "Invalid JSON format")
        realtime.send("input_audio_buffer.append")
        assert realtime.problem() == ("missing_audio_data", "Audio data is missing")
        realtime.send("input_audio_buffer.append", audio="§")
        assert realtime.problem() == ("invalid_audio_data", "Failed to decode audio data")
        realtime.send("response.create")
        assert realtime.problem()[0] == "not_implemented"
        realtime.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
        assert realtime.problem() == ("not_implemented", "turn_detection: expected null")
        realtime.send("session.update", session={"audio": {"input": {"format": {"type": "audio/pcmu"}}}})
        assert realtime.problem()[0] == "session_update_error"
        realtime.send("input_audio_buffer.append", audio=base64.b64encode(bytes(3)).decode())
        realtime.send("input_audio_buffer.clear")
        realtime.receive("input_audio_buffer.cleared")
        realtime.send("input_audio_buffer.commit")
        realtime.receive("input_audio_buffer.committed")
        assert realtime.problem() == ("input_audio_buffer_commit_empty", "the buffer has no audio")


def test_a_realtime_session_with_windows_needs_no_commits(server: Served):
    query = "sound_detection_window_ms=1000&sound_detection_hop_ms=500&top_k=1"
    with connect(server.websocket(f"/v1/realtime?{query}"), proxy=None) as socket:
        realtime = Realtime(socket)
        for _ in range(3):
            realtime.send("input_audio_buffer.append", audio=base64.b64encode(bytes(2 * 16_000)).decode())
        for _ in range(4):  # 2 s are 4 hops
            assert len(realtime.receive("conversation.item.sound_detection")["detections"]) == 1
