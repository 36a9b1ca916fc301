# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced listen` with real servers: RTSP of GStreamer, Icecast fed by FFmpeg, mosquitto.

    apt-get install mosquitto icecast2 ffmpeg openssl gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base \
        gstreamer1.0-plugins-good python3-gi
    python -m pytest -m servers tests/live
"""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from live_servers import Listening, broadcast, free_port, icecast, mosquitto, rtsp, scene, wait_until
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

pytestmark = pytest.mark.servers

TONE = ("--label", "Sine wave", "--label", "Beep, bleep", "--threshold", "0.05")
PASSWORD = "p@ss:w/rd#1?"
ENCODED = "p%40ss%3Aw%2Frd%231%3F"


def assert_hidden(text: str, *more: str) -> None:
    for secret in (PASSWORD, ENCODED, "w/rd", "w%2Frd", "t0ken", *more):
        assert secret not in text


# Sources


@pytest.mark.parametrize("codec", ["pcma", "l16", "opus"])
def test_a_camera_with_audio_beside_its_video_is_tagged(codec, tmp_path):
    port = free_port()
    with rtsp(port), Listening(tmp_path, f"rtsp://127.0.0.1:{port}/{codec}", *TONE) as listening:
        listening.wait_for_lines(3)
        assert listening.end() == 0
        assert listening.reports() == []
        assert "Sine wave" in listening.lines[-1]


def test_a_camera_that_restarts_is_reconnected_and_reported_once(tmp_path):
    port = free_port()
    with rtsp(port):
        listening = Listening(tmp_path, f"rtsp://127.0.0.1:{port}/pcma", *TONE)
        listening.wait_for_lines(2)
    with listening:
        wait_until(lambda: listening.reports())
        time.sleep(4)  # several attempts
        with rtsp(port):
            wait_until(lambda: len(listening.reports()) > 1)
            count = len(listening.lines)
            listening.wait_for_lines(count + 2)
            assert listening.end() == 0
        lost, back = listening.reports()
        assert lost.startswith(f"rtsp://127.0.0.1:{port}/…: ") and lost.endswith("; connecting again")
        assert back.startswith(f"rtsp://127.0.0.1:{port}/…: audio again after ")


def test_the_password_of_a_camera_is_used_and_never_shown(tmp_path):
    port = free_port()
    with rtsp(port, "admin", PASSWORD):
        for password, works in ((ENCODED, True), (ENCODED + "x", False)):
            url = f"rtsp://admin:{password}@127.0.0.1:{port}/pcma?token=t0ken"
            with Listening(tmp_path, url, *TONE) as listening:
                if works:
                    listening.wait_for_lines(1)
                    assert listening.end() == 0
                else:
                    assert listening.process.wait(300) == 1
                    assert "401 Unauthorized" in listening.stderr
                assert_hidden(listening.stderr + "".join(listening.lines), "admin")
        # The password may also be given in the environment.
        with Listening(tmp_path, *TONE, CED_SOURCE_URL=f"rtsp://admin:{ENCODED}@127.0.0.1:{port}/l16") as listening:
            listening.wait_for_lines(1)
            assert_hidden(listening.stderr)


def test_a_camera_without_audio_is_one_line(tmp_path):
    port = free_port()
    with rtsp(port), Listening(tmp_path, f"rtsp://127.0.0.1:{port}/video") as listening:
        assert listening.process.wait(300) == 1
        assert listening.stderr.splitlines()[-1].endswith("; the stream may have no audio track")


MP3 = ("-c:a", "libmp3lame", "-f", "mp3", "-content_type", "audio/mpeg")
OPUS = ("-c:a", "libopus", "-f", "ogg", "-content_type", "audio/ogg")


def test_an_icecast_station_that_changes_its_format_and_rate_is_followed(tmp_path):
    port = free_port()
    with icecast(tmp_path, port, "unused"):
        with broadcast(port, "radio", *MP3, rate=22050):
            time.sleep(2)
            listening = Listening(tmp_path, f"http://127.0.0.1:{port}/radio", *TONE)
            listening.wait_for_lines(3)
        with listening:
            wait_until(lambda: listening.reports())
            with broadcast(port, "radio", *OPUS, rate=48000):
                wait_until(lambda: len(listening.reports()) > 1)
                count = len(listening.lines)
                listening.wait_for_lines(count + 2)
                assert listening.end() == 0
            assert len(listening.reports()) == 2


def test_a_private_icecast_mount_can_be_opened_with_credentials_in_the_url(tmp_path):
    port = free_port()
    with icecast(tmp_path, port, PASSWORD), broadcast(port, "private", *OPUS, rate=48000):
        time.sleep(2)
        with Listening(tmp_path, f"http://listener:{ENCODED}@127.0.0.1:{port}/private", *TONE) as listening:
            listening.wait_for_lines(2)
            assert listening.end() == 0
            assert_hidden(listening.stderr)
        with Listening(tmp_path, f"http://listener:w0rong@127.0.0.1:{port}/private?key=t0ken", *TONE) as listening:
            assert listening.process.wait(300) == 1
            assert_hidden(listening.stderr, "w0rong")


# MQTT


class Subscriber:
    """A client of a broker, like Home Assistant, with the retained messages and those received since."""

    def __init__(self, port: int, **login: str) -> None:
        self.messages: list[tuple[str, str, bool]] = []
        self.client = Client(CallbackAPIVersion.VERSION2, client_id="subscriber", clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        if login:
            self.client.username_pw_set(login["user"], login["password"])
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_message = lambda client, data, message: self.messages.append(
            (message.topic, message.payload.decode(), message.retain)
        )
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def of(self, topic: str) -> list[str]:
        return [payload for each, payload, _ in self.messages if each == topic]

    def events(self) -> list[tuple[str, str]]:
        return [(event["id"], event["type"]) for event in map(json.loads, self.of("ced/yard/events"))]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def subscribed(port: int, **login: str) -> Iterator[Subscriber]:
    subscriber = Subscriber(port, **login)
    try:
        yield subscriber
    finally:
        subscriber.close()


ALERTS = ("--hold", "1", "--window", "1", "--name", "yard", "--label", "Sine wave", "--threshold", "0.1")
BEEP = "ced/yard/audio/sine_wave"


def test_alerts_have_topics_as_frigates_and_home_assistant_can_discover_them(tmp_path):
    port = free_port()
    with mosquitto(tmp_path, port), subscribed(port) as subscriber:
        options = ("--mqtt", f"127.0.0.1:{port}", *ALERTS)
        with Listening(tmp_path, scene(tmp_path / "tone.wav"), *options) as listening:
            assert listening.process.wait(300) == 0, listening.stderr
        wait_until(lambda: subscriber.of("ced/yard/available")[-1:] == ["offline"])
        assert [line.split("  ")[1].strip() for line in listening.lines] == ["ON", "OFF"]
        assert subscriber.of(BEEP) == ["OFF", "ON", "OFF"]
        assert subscriber.of("ced/yard/audio/all") == ["OFF", "ON", "OFF"]
        assert subscriber.of("ced/yard/available") == ["online", "offline"]
        (first, new), (second, end) = subscriber.events()
        assert first == second and (new, end) == ("new", "end")
        (config,) = subscriber.of("homeassistant/binary_sensor/yard/ced_yard_sine_wave/config")
        config = json.loads(config)
        assert config["state_topic"] == BEEP and config["availability_topic"] == "ced/yard/available"
        assert config["unique_id"] == "ced_yard_sine_wave" and config["device"]["identifiers"] == ["ced_yard"]
        with subscribed(port) as late:  # as Home Assistant when it starts
            wait_until(lambda: len(late.messages) >= 5)
            assert all(is_retained for _, _, is_retained in late.messages)
            assert dict((topic, payload) for topic, payload, _ in late.messages)[BEEP] == "OFF"


def test_the_last_will_makes_the_sensors_of_a_killed_listener_unavailable(tmp_path):
    port = free_port()
    with mosquitto(tmp_path, port), subscribed(port) as subscriber:
        path = scene(tmp_path / "tone.wav", silence_s=30)
        with Listening(tmp_path, path, "--mqtt", f"127.0.0.1:{port}", *ALERTS) as listening:
            wait_until(lambda: subscriber.of("ced/yard/available") == ["online"])
            listening.process.kill()
            wait_until(lambda: subscriber.of("ced/yard/available") == ["online", "offline"])


def test_a_lost_broker_does_not_stop_listening_and_no_event_is_duplicated(tmp_path):
    port = free_port()
    path = scene(tmp_path / "tone.wav", tones=5, silence_s=3, tone_s=2)
    with mosquitto(tmp_path, port):
        subscriber = Subscriber(port)
        listening = Listening(tmp_path, path, "--mqtt", f"127.0.0.1:{port}", *ALERTS)
        wait_until(lambda: "ON" in subscriber.of(BEEP))
    with listening:
        listening.wait_for_lines(4)
        with mosquitto(tmp_path, port):
            assert listening.process.wait(300) == 0
            wait_until(lambda: len(subscriber.events()) >= 10)
            time.sleep(1)
            subscriber.close()
    assert len(listening.lines) == 10
    assert set(Counter(subscriber.events()).values()) == {1}
    assert subscriber.of(BEEP)[-1] == "OFF"
    lost, back = listening.reports()
    assert lost == f"MQTT broker 127.0.0.1:{port}: connection lost; trying again"
    assert back == f"MQTT broker 127.0.0.1:{port}: connected"


def openssl(*arguments: Any) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def test_a_broker_with_password_and_tls(tmp_path):
    port = free_port()
    key, certificate, users = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "users"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")  # fmt: skip
    users.touch()
    subprocess.run(["mosquitto_passwd", "-b", users, "ced", PASSWORD], check=True, capture_output=True)
    lines = (f"password_file {users}", f"certfile {certificate}", f"keyfile {key}")
    path = scene(tmp_path / "tone.wav", silence_s=2)
    with mosquitto(tmp_path, port, *lines):
        for url, environment, ca, report in (
            (f"mqtts://ced:{ENCODED}@localhost:{port}", {}, certificate, None),
            (f"localhost:{port}", {"CED_MQTT_USER": "ced", "CED_MQTT_PASSWORD": PASSWORD}, certificate, None),
            (f"mqtts://ced:w0rong@localhost:{port}", {}, certificate, "refused: Not authorized; trying again"),
            (f"mqtts://ced:{ENCODED}@localhost:{port}", {}, None, "cannot be reached; trying again"),
        ):
            trust = ("--mqtt-ca", ca) if ca else ()
            with Listening(tmp_path, path, "--mqtt", url, *trust, *ALERTS, **environment) as listening:
                assert listening.process.wait(300) == 0
            expected = [] if report is None else [report, "not connected; events of this time are lost"]
            assert listening.reports() == [f"MQTT broker localhost:{port}: {line}" for line in expected]
            assert len(listening.lines) == 2
            assert_hidden(listening.stderr, "w0rong")
