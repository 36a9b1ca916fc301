# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced listen`: tags, events or alerts of live audio."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..messages import OptionError
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .finding import choosing, parse_limits
from .model import load_tagger
from .options import WINDOWS, option
from .terminal import put, say

if TYPE_CHECKING:
    from ..live.alerting import Alerting
    from ..live.alerts import Alert
    from ..live.sources import LiveSource
    from ..tagger import AudioTagger

ALERTS = "Alerts"
NOT_AN_ALERT = "needs --webhook, --mqtt, --exec or --save-clips"


@one_line_errors
def listen(
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", envvar="CED_SOURCE_URL", show_envvar=False, show_default=False, hidden=True),
    ] = None,
    input_device: Annotated[
        str | None, option(options.INPUT, metavar="DEVICE", help="Microphone: an index or name from --list-devices.")
    ] = None,
    list_devices: Annotated[
        bool, option(options.INPUT, "--list-devices", help="List the microphones and exit.")
    ] = False,
    model: options.Model = None,
    top_k: options.TopK = None,
    threshold: options.Threshold = None,
    threshold_file: options.ThresholdFile = None,
    labels: options.Labels = None,
    exclude: options.Exclude = None,
    label_map: options.LabelMap = None,
    window_s: options.Window = None,
    hop_s: options.Hop = None,
    gate_dbfs: Annotated[
        float | None,
        option(
            WINDOWS,
            "--gate",
            metavar="DBFS",
            help="Skip audio below this level (RMS of 0.1 s), such as -50: scores are 0.",
        ),
    ] = None,
    events: Annotated[bool, option(options.EVENTS, "--events", help="Print events when they end.")] = False,
    off_threshold: options.OffThreshold = None,
    smooth_s: Annotated[
        float | None,
        option(
            options.EVENTS,
            "--smooth",
            metavar="SECONDS",
            help="Smooth scores over this time, which delays the output by half of it.",
        ),
    ] = None,
    smoothing: options.Smoothing = None,
    min_duration_s: options.MinDuration = None,
    merge_gap_s: options.MergeGap = None,
    max_duration_s: options.MaxDuration = None,
    webhook: Annotated[
        str | None, option(ALERTS, metavar="URL", envvar="CED_WEBHOOK", help="Send alerts as JSON by HTTP POST.")
    ] = None,
    mqtt: Annotated[
        str | None,
        option(
            ALERTS,
            metavar="HOST",
            envvar="CED_MQTT",
            help="Send alerts to this MQTT broker: HOST, HOST:PORT or mqtts://HOST.",
        ),
    ] = None,
    mqtt_user: Annotated[
        str | None, option(ALERTS, metavar="NAME", envvar="CED_MQTT_USER", help="User name for the broker.")
    ] = None,
    mqtt_password: Annotated[
        str | None,
        option(
            ALERTS,
            metavar="TEXT",
            envvar="CED_MQTT_PASSWORD",
            help="Password for the broker. Prefer the variable, which other users cannot see.",
        ),
    ] = None,
    mqtt_port: Annotated[
        int | None,
        option(ALERTS, metavar="N", min=1, max=65535, help="Port of the broker; by default 1883, with TLS 8883."),
    ] = None,
    mqtt_tls: Annotated[bool, option(ALERTS, "--mqtt-tls", help="Encrypt the connection to the broker.")] = False,
    mqtt_ca: Annotated[
        str | None, option(ALERTS, metavar="FILE", help="Certificates to trust instead of the system's; implies TLS.")
    ] = None,
    mqtt_prefix: Annotated[
        str | None, option(ALERTS, metavar="TOPIC", help="First level of the topics; by default ced.")
    ] = None,
    exec: Annotated[
        str | None,
        option(
            ALERTS,
            "--exec",
            metavar="COMMAND",
            help="Run this command for each alert, without a shell: JSON on stdin, and variables such as CED_LABEL.",
        ),
    ] = None,
    save_clips: Annotated[
        str | None, option(ALERTS, metavar="DIR", help="Save the audio of alerts as WAV files.")
    ] = None,
    clip_before_s: Annotated[
        float | None,
        option(ALERTS, "--clip-before", metavar="SECONDS", min=0, max=60, help="Audio before the alert; by default 5."),
    ] = None,
    clip_after_s: Annotated[
        float | None,
        option(ALERTS, "--clip-after", metavar="SECONDS", min=0, max=60, help="Audio after the alert; by default 5."),
    ] = None,
    hold_s: Annotated[
        float | None,
        option(
            ALERTS,
            "--hold",
            metavar="SECONDS",
            min=0,
            help="End an alert when its class is absent for this time; by default 10.",
        ),
    ] = None,
    cooldown_s: Annotated[
        float | None,
        option(
            ALERTS,
            "--cooldown",
            metavar="SECONDS",
            min=0,
            help="Minimum time from the end of an alert to the next of its class.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        option(ALERTS, metavar="NAME", help="Name of SOURCE in alerts; by default its host, file or this computer."),
    ] = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
) -> None:
    """Tag live audio from a microphone or stream, with alerts.

    SOURCE is an rtsp:// or http:// URL (a camera, Icecast), - for standard input, or a file, which is read in real
    time; by default the microphone. Ctrl-C ends the command.

    Prints a line for each window with tags: the local time of its end, and the tags. With --events, prints a line for
    each event: the local times of onset and offset, the peak score and the class. Lost audio is reported on stderr.

    With --webhook, --mqtt, --exec or --save-clips, prints and sends an alert when a class begins and when it ends.
    """
    is_alerting = any(target is not None for target in (webhook, mqtt, exec, save_clips))
    finding = options.given(off_threshold=off_threshold, min_duration_s=min_duration_s)
    options.refuse("" if events or is_alerting else "needs --events", **finding)
    lasting = options.given(merge_gap_s=merge_gap_s, max_duration_s=max_duration_s)
    options.refuse("" if events or is_alerting else "needs --events", **lasting)
    options.refuse("has no effect for alerts; see --hold" if is_alerting else "", **lasting)
    options.refuse("has no effect with --events" if events else "", top_k=top_k)
    options.refuse("has no effect for alerts" if is_alerting else "", top_k=top_k)
    alerting: dict[str, Any] = {"hold_s": hold_s, "cooldown_s": cooldown_s, "name": name}
    options.refuse("" if is_alerting else NOT_AN_ALERT, **alerting)
    clipping = {"clip_before_s": clip_before_s, "clip_after_s": clip_after_s}
    options.refuse("" if save_clips is not None else "needs --save-clips", **clipping)
    broker: dict[str, Any] = {"port": mqtt_port, "tls": mqtt_tls or None, "ca": mqtt_ca, "prefix": mqtt_prefix}
    options.refuse(
        "" if mqtt is not None else "needs --mqtt", **{f"mqtt_{option}": value for option, value in broker.items()}
    )
    options.refuse("is for microphones" if source else "", input_device=input_device, list_devices=list_devices or None)
    if list_devices:
        from ..live.microphone import import_sounddevice, microphone_lines

        put(*microphone_lines(import_sounddevice()))
        return
    live = _open(source, input_device)
    live.report = _report
    tagger = load_tagger(model, engine=engine, compute_type=compute_type)
    from ..audio import AudioError

    tagging = options.given(window_s=window_s, hop_s=hop_s, smooth_s=smooth_s, smoothing=smoothing)
    tagging |= options.given(gate_dbfs=gate_dbfs)
    chosen = choosing(labels, exclude, label_map)
    chosen |= parse_limits(threshold, threshold_file, labels, events or is_alerting) | options.given(top_k=top_k)
    alerts = None
    try:
        # Check the options before the source opens.
        if is_alerting:
            list(tagger.stream([], **tagging))
            broker = {"broker": mqtt, "user": mqtt_user, "password": mqtt_password} | options.given(**broker)
            targets = {
                "webhook": webhook,
                "exec": exec,
                "save_clips": save_clips,
                "broker": broker if mqtt is not None else None,
            }
            alerts = _alerting(tagger, live, tagging, chosen | finding, alerting, targets, options.given(**clipping))
        elif events:
            list(tagger.stream_events([], **tagging, **chosen, **finding, **lasting))
        else:
            list(tagger.stream([], **tagging, **chosen))
        with _ended_by_sigterm(), live.opened():
            say(f"listening to {live.shown}; Ctrl-C ends it")
            while not live.is_over:
                if alerts is not None:
                    _print_alerts(tagger, live, alerts, tagging)
                elif events:
                    _print_events(tagger, live, tagging | chosen | finding | lasting)
                else:
                    _print_tags(tagger, live, tagging | chosen)
                if not (live.is_over or live.is_lost):
                    say(f"ced: {_local_time(live.heard_until)} gap: {live.gap}")
    except KeyboardInterrupt:
        pass  # the usual way to end the command
    except AudioError as error:
        raise CliError(f"{live.shown}: {error}", FAILED) from error
    finally:
        if alerts is not None:
            _put_alerts(alerts.end())
            alerts.close()


def _open(source: str | None, input_device: str | None) -> "LiveSource":
    if source is not None:
        from ..live.sources import open_source

        try:
            return open_source(source)
        except OptionError as error:
            raise CliError(f"{error.value}: expected {error.expected}") from error
    from ..live.microphone import find_microphone, import_sounddevice

    return find_microphone(import_sounddevice(), input_device)


def _alerting(
    tagger: "AudioTagger",
    live: "LiveSource",
    tagging: dict[str, Any],
    finding: dict[str, Any],
    alerting: dict[str, Any],
    targets: dict[str, Any],
    clipping: dict[str, Any],
) -> "Alerting":
    """The alerts and their targets. All options are checked before the connection to the broker."""
    from ..events import event_rules
    from ..live.alerting import Alerting
    from ..live.alerts import AlertFinder
    from ..live.clips import ClipSaver
    from ..live.hooks import check_folder, command, webhook
    from ..live.mqtt import MqttAlerts
    from ..windows import TIMELINE_WINDOW_S

    rules = event_rules(tagger.labels, **finding)
    if any(rule.smooth_s for rule in rules):
        raise CliError("alerts do not support smoothing by class: use --smooth")
    name = alerting.pop("name") or live.name
    window_s = tagging.get("window_s", TIMELINE_WINDOW_S)
    outboxes = []
    if targets["save_clips"] is not None:
        check_folder("save_clips", targets["save_clips"])
    if targets["webhook"] is not None:
        outboxes.append(webhook(targets["webhook"], _report))
    if targets["exec"] is not None:
        outboxes.append(command(targets["exec"], _report))
    mqtt = None
    if targets["broker"] is not None:
        mqtt = MqttAlerts(
            source=name, labels=[rule.choice.label for rule in rules], report=_report, **targets["broker"]
        )
    clips = None
    if targets["save_clips"] is not None:
        lag_s = window_s + tagging.get("smooth_s", 0.0) + max(rule.min_duration_s for rule in rules) + 2.0
        clips = ClipSaver(targets["save_clips"], lag_s=lag_s, report=_report, **clipping)
    finder = AlertFinder(rules, **options.given(**alerting))
    return Alerting(live, name, finder, tagging.get("hop_s", window_s / 2), outboxes, mqtt, clips)


def _print_alerts(tagger: "AudioTagger", live: "LiveSource", alerts: "Alerting", tagging: dict[str, Any]) -> None:
    """Prints alerts until audio is lost; so do the functions below with tags and events."""
    for update in tagger.stream(alerts.blocks(), top_k=1, **tagging):
        _put_alerts(alerts.update(update))
    if live.is_lost:
        _put_alerts(alerts.end())


def _put_alerts(found: list["Alert"]) -> None:
    for alert in found:
        state, moment = ("OFF", alert.ended_at) if alert.is_over else ("ON ", alert.began_at)
        put(f"{_local_time(moment or 0.0)}  {state}  {alert.score:.2f}  {alert.label}")


def _print_tags(tagger: "AudioTagger", live: "LiveSource", tagging: dict[str, Any]) -> None:
    for update in tagger.stream(live.blocks_until_gap(), **tagging):
        if update.tags:
            tags = ", ".join(f"{tag.label} {tag.score:.2f}" for tag in update.tags)
            put(f"{_local_time(live.time_of(update.end_s))}  {tags}")


def _print_events(tagger: "AudioTagger", live: "LiveSource", tagging: dict[str, Any]) -> None:
    for event in tagger.stream_events(live.blocks_until_gap(), **tagging):
        onset, offset = (_local_time(live.time_of(place_s)) for place_s in event[:2])
        put(f"{onset} – {offset.partition(' ')[2]}  {event.peak:.2f}  {event.label}")


def _report(line: str) -> None:
    say(f"ced: {_local_time(time.time())} {line}")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, which stops a service, has the effect of Ctrl-C: alerts end, and queued ones are delivered."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds")[:-2]
