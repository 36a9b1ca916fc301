# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Alerts of live audio: start, end, and targets that fail or hang."""

import http.server
import json
import sys
import threading
import tracemalloc
from collections import deque
from functools import partial
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
import soundfile
from live_servers import Webhook, free_port
from typer.testing import CliRunner

from ced_model import AudioTagger
from ced_model.classes import ClassChoice
from ced_model.cli.app import app
from ced_model.events import Rule
from ced_model.live import hooks, outbox, sources
from ced_model.live.addresses import hide, parse_address
from ced_model.live.alerts import AlertFinder
from ced_model.live.clips import ClipSaver
from ced_model.live.mqtt import object_ids
from ced_model.live.outbox import Outbox, TryAgainError
from ced_model.messages import OptionError

DOG = ClassChoice("Dog", (0,), 0)


def states(finder: AlertFinder, scores: list[float], hop_s: float = 1.0) -> list[tuple[bool, float, float | None]]:
    """(is over, onset, offset) of the events that a finder finds in scores, with a window every `hop_s`."""
    found = []
    for place, score in enumerate(scores):
        start_s = place * hop_s
        found += finder.update(start_s, start_s + hop_s, np.array([score], np.float32), lambda place_s: place_s)
    return [(alert.is_over, alert.onset_s, alert.offset_s) for alert in found]


@pytest.mark.parametrize(
    ("rule", "options", "scores", "expected"),
    [
        ({}, {"hold_s": 0.0}, [0, 0.6, 0.4, 0.4], [(False, 1, None), (True, 1, 2)]),
        ({"off_threshold": 0.3}, {"hold_s": 0.0}, [0, 0.6, 0.4, 0.2], [(False, 1, None), (True, 1, 3)]),
        ({"off_threshold": 0.3}, {"hold_s": 0.0}, [0.4, 0.4, 0.4], []),
        ({}, {"hold_s": 2.0}, [0.6, 0, 0.6, 0, 0, 0], [(False, 0, None), (True, 0, 3)]),
        ({"merge_gap_s": 1.0}, {"hold_s": 9.0}, [0.6, 0], [(False, 0, None), (True, 0, 1)]),
        ({"min_duration_s": 2.0}, {"hold_s": 0.0}, [0.6, 0, 0.6, 0.6, 0], [(False, 2, None), (True, 2, 4)]),
        (
            {},
            {"cooldown_s": 3, "hold_s": 0},
            [0.6, 0, 0.6, 0, 0, 0.6],
            [(False, 0, None), (True, 0, 1), (False, 5, None)],
        ),
        (
            {},
            {"cooldown_s": 2, "hold_s": 0},
            [0.6, 0, 0.6, 0.6, 0.6],
            [(False, 0, None), (True, 0, 1), (False, 4, None)],
        ),
    ],
)
def test_an_alert_follows_hysteresis_hold_cool_down_and_least_duration(rule, options, scores, expected):
    assert states(AlertFinder([Rule(DOG, **rule)], **options), scores) == expected


def test_an_end_has_the_id_of_its_beginning_and_the_highest_score():
    finder = AlertFinder([Rule(DOG)], hold_s=0.0)
    found = []
    for place, score in enumerate([0.6, 0.9, 0.1, 0.7]):
        found += finder.update(place, place + 1, np.array([score]), lambda place_s: 1e9 + place_s)
    found += finder.finish()
    first, end, second, last = [alert.payload("yard") for alert in found]
    assert first["id"] == end["id"] != second["id"] == last["id"]
    assert (first["type"], first["score"], first["end_time"]) == ("new", 0.6, None)
    assert (end["type"], end["score"], end["duration_s"], end["source"]) == ("end", 0.9, 2, "yard")
    assert finder.finish() == []


# Targets


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(outbox, "FLUSH_S", 5.0)


def event(number: int, kind: str = "new") -> dict[str, Any]:
    return {"id": f"id{number}", "type": kind, "label": "Dog", "score": 0.5, "end_time": None}


def test_a_webhook_that_fails_and_hangs_receives_each_event_once_and_in_order(monkeypatch):
    monkeypatch.setattr(hooks, "TIMEOUT_S", 0.3)
    lines: list[str] = []
    with Webhook(500, None, 429, 204, 503) as server:
        box = hooks.webhook(f"http://user:s3cret@127.0.0.1:{server.port}/api/t0ken?key=hidden", lines.append)
        for number in range(3):
            box.add(event(number))
        box.close()
    assert [each["id"] for each in server.accepted] == ["id0", "id1", "id2"]
    keys = [headers["Idempotency-Key"] for headers, _ in server.requests]
    assert keys == ["id0-new"] * 4 + ["id1-new"] * 2 + ["id2-new"]
    assert server.requests[0][0]["Authorization"] == "Basic dXNlcjpzM2NyZXQ="
    name = f"webhook http://127.0.0.1:{server.port}/…"
    again = f"{name}: events are delivered again"
    assert lines == [f"{name}: HTTP 500 Internal Server Error; trying again", again,
                     f"{name}: HTTP 503 Service Unavailable; trying again", again]  # fmt: skip


@pytest.mark.parametrize("status", [302, 400, 404])
def test_an_event_that_a_webhook_refuses_is_not_sent_again_or_redirected(status):
    lines: list[str] = []
    with Webhook(status) as server:
        box = hooks.webhook(f"http://127.0.0.1:{server.port}/", lines.append)
        box.add(event(0))
        box.add(event(1))
        box.close()
    assert [each["id"] for each in server.accepted] == ["id1"] and len(server.requests) == 2
    assert f"HTTP {status}" in lines[0] and "1 event could not be delivered" in lines[-1]


def test_a_target_that_hangs_does_not_delay_others_and_its_queue_is_bounded(monkeypatch):
    monkeypatch.setattr(outbox, "FLUSH_S", 0.05)
    lines: list[str] = []
    with Webhook(*[None] * 100) as server:
        box = hooks.webhook(f"http://127.0.0.1:{server.port}/", lines.append)
        for number in range(outbox.MAX_WAITING + 5):
            box.add(event(number))
        assert len(box._waiting) == outbox.MAX_WAITING
        box.close()
    assert lines == [f"webhook http://127.0.0.1:{server.port}: {outbox.MAX_WAITING + 5} events could not be delivered"]


def test_an_unreachable_server_is_reported_once(monkeypatch):
    monkeypatch.setattr(outbox, "FLUSH_S", 0.2)
    lines: list[str] = []
    box = hooks.webhook(f"http://127.0.0.1:{free_port()}/", lines.append)
    box.add(event(0))
    box.close()
    assert len(lines) == 2
    assert "Connection refused; trying again" in lines[0] and "1 event could not be delivered" in lines[1]


def test_a_command_is_run_with_the_event_without_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("CED_MQTT_PASSWORD", "hidden")
    script, out = tmp_path / "hook.py", tmp_path / "out put.json"
    script.write_text(
        "import json, os, sys\n"
        "event = json.load(sys.stdin)\n"
        "given = {name: value for name, value in os.environ.items() if name.startswith('CED_')}\n"
        "json.dump([event, given, sys.argv[2:]], open(sys.argv[1], 'w'))\n"
        "print('not on standard output')\n"
    )
    lines: list[str] = []
    box = hooks.command(f"{sys.executable} {script} '{out}' $HOME '; rm -rf *' `id`", lines.append)
    box.add(event(1) | {"label": "Dog; $(touch x)"})
    box.close()
    received, environment, arguments = json.loads(out.read_text())
    assert received["label"] == environment["CED_LABEL"] == "Dog; $(touch x)"
    assert environment == {"CED_ID": "id1", "CED_TYPE": "new", "CED_LABEL": received["label"], "CED_SCORE": "0.5"}
    assert arguments == ["$HOME", "; rm -rf *", "`id`"] and lines == []


def test_a_command_that_fails_is_reported_and_not_repeated():
    lines: list[str] = []
    box = hooks.command(f"{sys.executable} -c 'raise SystemExit(3)'", lines.append)
    box.add(event(0))
    box.close()
    assert lines[0].endswith(": exit code 3") and len(lines) == 2


def test_an_outbox_keeps_the_order_of_retried_events():
    accepted, failing = [], [True, True, False, True, False]

    def deliver(payload: dict[str, Any]) -> None:
        if failing and failing.pop(0):
            raise TryAgainError("not now")
        accepted.append(payload["id"])

    box = Outbox("target", deliver, lambda line: None)
    for number in range(4):
        box.add(event(number))
    box.close()
    assert accepted == ["id0", "id1", "id2", "id3"]


def test_a_clip_has_the_seconds_around_its_alert(tmp_path):
    lines: list[str] = []
    clips = ClipSaver(str(tmp_path), lag_s=3.0, report=lines.append, clip_before_s=1.0, clip_after_s=2.0)
    finder = AlertFinder([Rule(DOG)], hold_s=1.0)
    seconds = np.repeat(np.arange(200) / 256, 1000).astype(np.float32)
    blocks = ({"array": block, "sampling_rate": 1000} for block in np.split(seconds, 2000))
    paths = []
    for number, _ in enumerate(clips.tap(blocks, 0.0)):
        now_s = number / 10
        if number % 10 == 9:  # a window of 1 s, 2 s ago
            score = float(100 <= now_s - 2 < 103)
            for alert in finder.update(now_s - 2.9, now_s - 1.9, np.array([score]), lambda place_s: place_s):
                alert.clip = clips.add(alert)
                paths.append(alert.clip)
                bounds = alert.onset_s - 1, (alert.offset_s or 0) + 2
        assert len(clips._blocks) < 100
    clips.close()
    assert paths[0] == paths[1] and lines == []
    samples, rate = soundfile.read(paths[0])
    assert rate == 1000 and len(samples) == round((bounds[1] - bounds[0]) * rate)
    np.testing.assert_allclose(samples[[0, -1]] * 256, [int(bounds[0]), int(bounds[1] - 0.001)], atol=0.01)


def test_a_deleted_folder_is_reported_and_listening_continues(tmp_path):
    lines: list[str] = []
    clips = ClipSaver(str(tmp_path / "gone"), lag_s=1.0, report=lines.append)
    for alert in AlertFinder([Rule(DOG)]).update(0, 1, np.array([0.9]), lambda place_s: place_s):
        clips.add(alert)
    assert len(list(clips.tap([{"array": np.zeros(100, np.float32), "sampling_rate": 100}], 0.0))) == 1
    clips.close()
    assert "No such file or directory" in lines[0]


def test_topics_of_classes_are_distinct_and_plain():
    labels = ["Fire alarm", "Dog...", "dog", "犬", "猫", "Bach, J. S.", "all", "Écho/+#"]
    names = object_ids(labels)
    assert names[:2] == ["fire_alarm", "dog"] and names[5] == "bach_j_s" and names[7] == "echo"
    assert len(set(names)) == len(labels) and "all" not in names
    assert all(name and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in names)


# Credentials


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("rtsp://admin:s3cret@cam:554/live?token=t0ken", "admin", "s3cret"),
        ("rtsp://admin:s3%2Fcr%40t@cam/live", "admin", "s3/cr@t"),
        ("http://admin:s3cr@t@cam/live#t0ken", "admin", "s3cr@t"),
        ("https://cam/hooks/0123456789abcdef0123", None, None),
    ],
)
def test_only_scheme_and_host_of_a_url_are_shown(url, user, password):
    address = parse_address("webhook", url, ("http", "https", "rtsp"))
    assert (address.user, address.password) == (user, password)
    assert address.shown in ("rtsp://cam:554/…", "rtsp://cam/…", "http://cam/…", "https://cam/…")
    for message in (
        f"cannot open {url!r}: 404",
        f"for {address.url}",
        f"login of {user} with {password} failed",
        url.upper(),
    ):
        hidden = address.hide(message)
        for secret in (user, password, "s3%2Fcr%40t", "t0ken", "0123456789abcdef0123"):
            assert not secret or secret.lower() not in hidden.lower()
    assert "404" in address.hide(f"cannot open {url!r}: 404")


@pytest.mark.parametrize(
    "url", ["rtsp://admin:12#s3cret@cam/", "rtsp://admin:s3/cret@cam/", "rtsp://a:s3cret@[cam/", "rtsp://:s3cret@/x",
            "gopher://a:s3cret@cam/", "s3cret:pw@cam://", "rtsp://a:s3 cret@cam/"]  # fmt: skip
)  # fmt: skip
def test_a_url_that_cannot_be_read_is_refused_without_its_credentials(url):
    with pytest.raises(OptionError) as caught:
        parse_address("source", url, ("rtsp", "http"))
    assert not any(part in str(caught.value) for part in ("s3", "cret", "12"))


def test_urls_in_messages_of_libraries_are_reduced_to_their_host():
    assert hide("moved to https://u:p@host:1/a/b?c=d, sorry", ()) == "moved to https://host:1 sorry"


# The command


@pytest.fixture
def tone(tmp_path, monkeypatch):
    """A file of 5 s with a tone from 2 to 4 s, which is read without delays."""
    monkeypatch.setattr(sources.threading.Event, "wait", fast_wait)
    samples = np.zeros(5 * 16000)
    samples[2 * 16000 : 4 * 16000] = 0.5 * np.sin(np.arange(2 * 16000) * 2 * np.pi / 16)
    soundfile.write(tmp_path / "tone.wav", samples, 16000)
    return tmp_path / "tone.wav"


wait = sources.threading.Event.wait


def fast_wait(self: Any, timeout: float | None = None) -> bool:
    return wait(self, None if timeout is None else 0)


def ced(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["listen", *map(str, arguments)])


ALERT = ("--label", "Sine wave", "--threshold", "0.1", "--window", "1", "--hold", "1")


def test_a_file_is_listened_to_and_its_alerts_are_printed_sent_and_saved(tone, tmp_path):
    with Webhook() as server:
        options = (
            "--webhook",
            f"http://127.0.0.1:{server.port}/",
            "--save-clips",
            tmp_path / "clips",
            "--name",
            "yard",
        )
        result = ced(tone, *ALERT, *options, "--clip-before", "0.5", "--clip-after", "0.5", "--gate", "-60")
    assert result.exit_code == 0, result.output
    states = [line.split("  ")[1::2] for line in result.stdout.splitlines()]
    assert [state[0].strip() for state in states] == ["ON", "OFF"]
    new, end = server.accepted
    assert new["source"] == "yard" and new["label"] == "Sine wave" and new["id"] == end["id"]
    assert new["clip"] == end["clip"]
    assert soundfile.info(new["clip"]).duration == pytest.approx(end["duration_s"] + 1, abs=0.11)


def test_a_file_has_the_lines_of_its_timeline(tone):
    result = ced(tone, "--window", "1", "-k", "1")
    assert result.exit_code == 0
    timeline = AudioTagger().timeline(tone, window_s=1.0)
    expected = [timeline.labels[row.argmax()] for row in timeline.scores]
    assert [line.split("  ", 1)[1].rpartition(" ")[0] for line in result.stdout.splitlines()] == expected


def test_below_the_gate_scores_are_zero_and_nothing_is_computed(monkeypatch):
    tagger = AudioTagger()
    computed: list[int] = []
    scores = tagger._scores
    monkeypatch.setattr(tagger, "_scores", lambda contents, **how: computed.append(1) or scores(contents, **how))
    click = np.tile([0.1, -0.1], 800)  # 0.1 s of -20 dBFS
    audio = np.concatenate([np.zeros(48000), click, np.zeros(46400)]).astype(np.float32)
    updates = list(tagger.stream([audio], gate_dbfs=-30))
    plain = list(tagger.stream([audio]))
    loud = [update.start_s <= 3.0 < update.end_s for update in updates]
    assert [bool(update.scores.any()) for update in updates] == loud and sum(loud) == sum(computed[: sum(loud)]) == 2
    for update, other in zip(updates, plain, strict=True):
        if update.scores.any():
            np.testing.assert_allclose(update.scores, other.scores, atol=1e-5)
    assert not any(update.scores.any() for update in tagger.stream([audio], gate_dbfs=-10))


@pytest.mark.parametrize("hours", [1, pytest.param(10, marks=pytest.mark.servers)])
def test_stream_time_is_sample_time_after_hours_in_little_memory(hours):
    """Silence below the gate, with a loud last window."""
    tagger = AudioTagger()
    silence = np.zeros(10 * 16000, np.float32)
    loud = np.tile(np.float32([0.5, -0.5]), 5 * 16000)
    blocks = chain(repeat(silence, hours * 360 - 1), [loud])
    tracemalloc.start()
    updates = deque(tagger.stream(blocks, window_s=10.0, hop_s=10.0, gate_dbfs=-20), maxlen=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert updates[0].scores.any() and peak < 50e6
    assert abs(updates[0].end_s - hours * 3600) < 0.001 and abs(updates[0].start_s - hours * 3600 + 10) < 0.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.wav"], "nothing.wav: expected a file, a URL such as rtsp://…, or - for standard input"),
        (["."], ".: expected a file, not a folder or device"),
        (["ftp://u:s3cret@host/x"], "ftp://…: expected a URL that begins with http:// or"),
        (["u:s3cret@host/x"], "***: expected a file, a URL"),
        (["TONE", "--webhook", "host/x"], "--webhook ***: expected a URL that begins with http://"),
        (["TONE", "--mqtt", "mqtt://u:s3cret@:99999", "-l", "Dog"], "--mqtt mqtt://…: expected a URL that begins with"),
        (["TONE", "--mqtt", "host"], "--mqtt has a topic for each class, and 526 are too many"),
        (["TONE", "--mqtt", "host", "-l", "Dog", "--mqtt-prefix", "a/#"], "--mqtt-prefix a/#: expected a topic"),
        (["TONE", "--mqtt", "host", "-l", "Dog", "--mqtt-ca", "no.pem"], "--mqtt-ca no.pem: expected a file of cert"),
        (["TONE", "--exec", "no-such-program x"], "--exec no-such-program x: expected an existing program"),
        (["TONE", "--exec", ""], "--exec : expected an existing program"),
        (["TONE", "--webhook", ""], "--webhook ***: expected a URL"),
        (["TONE", "--mqtt", "", "-l", "Dog"], "--mqtt mqtt://…: expected a URL"),
        (["TONE", "--save-clips", ""], "--save-clips : expected a folder"),
        (["TONE", "--exec", "'"], "--exec ': expected a command; No closing quotation"),
        (["TONE", "--save-clips", "TONE/x"], "x: expected a folder; Not a directory"),
        (["TONE", "--hold", "3"], "--hold needs --webhook, --mqtt, --exec or --save-clips"),
        (["TONE", "--mqtt-port", "3"], "--mqtt-port needs --mqtt"),
        (["TONE", "--clip-after", "3", "--webhook", "http://h"], "--clip-after needs --save-clips"),
        (["TONE", "--merge-gap", "3", "--webhook", "http://h"], "--merge-gap has no effect for alerts; see --hold"),
        (["TONE", "--gate", "nan"], "--gate"),
        (["TONE", "--input-device", "1"], "--input-device is for microphones"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_before_anything_is_opened(arguments, message, tone):
    result = ced(*[str(argument).replace("TONE", str(tone)) for argument in arguments])
    lines = [line for line in result.stderr.splitlines() if not line.startswith("model: ")]
    assert result.exit_code == 2 and len(lines) == 1 and message in lines[0], result.output
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [("av", ["http://host/x"], 'pip install av'),
     ("av", ["-"], "listening to standard input requires av"),
     ("paho", ["TONE", "--mqtt", "host", "-l", "Dog"], '--mqtt requires paho-mqtt: pip install paho-mqtt')],
)  # fmt: skip
def test_a_missing_package_is_one_line(name, arguments, message, tone, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    result = ced(*[str(argument).replace("TONE", str(tone)) for argument in arguments])
    assert result.exit_code == 1 and message in result.stderr.splitlines()[-1]


def test_an_unreachable_broker_does_not_stop_listening(tone):
    port = free_port()
    result = ced(tone, *ALERT, "--mqtt", f"mqtt://ced:s3cret@127.0.0.1:{port}")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 2
    assert f"MQTT broker 127.0.0.1:{port}: cannot be reached; trying again" in result.stderr
    assert "s3cret" not in result.output


# Sources


class FakeStream(sources.LiveSource):
    """A source whose connections deliver the given blocks, or fail."""

    def __init__(self, *connections: Any) -> None:
        super().__init__("fake", "fake")
        self.connections = list(connections)
        self.lines: list[str] = []
        self.report = self.lines.append

    def receive(self) -> None:
        if not self.connections:
            self.reconnects = False
            raise sources.LostError("over")
        for each in self.connections.pop(0):
            if isinstance(each, str):
                raise sources.LostError(each)
            self.put(*each)


def part(seconds: float, rate: int = 8000) -> tuple[np.ndarray, int]:
    return np.ones(round(seconds * rate), np.float32), rate


def test_a_stream_is_reconnected_and_a_change_of_rate_starts_a_new_one(monkeypatch):
    monkeypatch.setattr(sources, "FIRST_DELAY_S", 0.01)
    stream = FakeStream([part(1), part(2), "reset"], ["refused"], [part(1), part(1, 16000), part(3, 16000)])
    pieces = []
    with stream.opened(), pytest.raises(Exception, match="fake: over"):
        while True:
            blocks = list(stream.blocks_until_gap())
            pieces.append(
                (stream.position_s, sum(len(b["array"]) for b in blocks), {b["sampling_rate"] for b in blocks})
            )
    assert [piece for piece in pieces if piece[1]] == [(0.0, 24000, {8000}), (3.0, 8000, {8000}), (4.0, 64000, {16000})]
    assert stream.lines[:2] == ["fake: reset; connecting again", "fake: audio again after 0 s"]


def test_delays_between_attempts_grow_and_only_the_first_failure_is_reported(monkeypatch):
    delays: list[float] = []
    stream = FakeStream([part(1), "lost"], *[["refused"]] * 8)
    monkeypatch.setattr(stream._ended, "wait", lambda seconds: delays.append(seconds))
    stream._run()
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert stream.lines == ["fake: lost; connecting again"]


def test_a_stream_over_http_is_tagged_from_a_small_server(tone, tmp_path):
    """A finite file is not opened again at its end."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://user:s3cret@127.0.0.1:{server.server_address[1]}/tone.wav?token=s3cret"
    result = ced(url, "--window", "1", "-k", "1")
    missing = ced(url.replace("tone", "none"))
    server.shutdown()
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 9
    assert missing.exit_code == 1 and missing.stderr.splitlines()[-1].endswith("/…: Server returned 404 Not Found")
    assert "s3cret" not in result.output + missing.output
