# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Sends alerts by MQTT, with topics like those of Frigate, and discovery by Home Assistant.

    PREFIX/NAME/audio/CLASS     ON or OFF, retained, for each class or group; `all` is ON if any of them is
    PREFIX/NAME/available       online or offline, retained; offline is also the last will
    PREFIX/NAME/events          start and end of each alert as JSON

States have QoS 0 and are not queued: after an outage, only the current states are sent. Events have QoS 1 and an id;
those of an outage are sent after it.
"""

import json
import re
import ssl
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from ..messages import OptionError, UsageError, one_line, printable
from ..packages import require
from .addresses import parse_address
from .alerts import Alert
from .outbox import FLUSH_S, MAX_WAITING

PORT, TLS_PORT = 1883, 8883
ON, OFF, ONLINE, OFFLINE = "ON", "OFF", "online", "offline"
ALL = "all"
DISCOVERY = "homeassistant"  # Home Assistant's default prefix
MAX_CLASSES = 100

Report = Callable[[str], object]


class MqttAlerts:
    """
    The connection to a broker.

    Args:
        broker: Its host, HOST:PORT, or a URL `mqtt://USER:PASSWORD@HOST:PORT` (`mqtts://` for TLS).
        source: Name of the stream, for topics and for the device in Home Assistant.
        labels: Classes and groups that may have alerts.
        report: Called with a line when a connection is lost, refused or restored.
        user, password, port, prefix: Settings of the broker and its topics, with precedence over those in `broker`.
        tls, ca: Whether to encrypt the connection, and a file of certificates to trust instead of the system's.
    """

    def __init__(
        self,
        broker: str,
        source: str,
        labels: Iterable[str],
        report: Report,
        *,
        user: str | None = None,
        password: str | None = None,
        port: int | None = None,
        tls: bool = False,
        ca: str | None = None,
        prefix: str = "ced",
    ) -> None:
        require(("paho",), "--mqtt")
        if not prefix.strip("/") or re.search(r"[+#\0]", prefix):
            raise OptionError("mqtt_prefix", printable(prefix), "a topic without + and #")
        labels = list(labels)
        if len(labels) > MAX_CLASSES:
            raise UsageError(
                f"--mqtt has a topic for each class, and {len(labels)} are too many: choose up to {MAX_CLASSES} with"
                ' --labels, such as --labels "Dog...,Siren"'
            )
        address = parse_address("mqtt", broker if "://" in broker else f"mqtt://{broker}", ("mqtt", "mqtts"))
        user, password = user or address.user, password or address.password
        tls = tls or address.scheme == "mqtts" or ca is not None
        port = port or address.port or (TLS_PORT if tls else PORT)
        self._shown = f"MQTT broker {address.host}:{port}"
        self._report, self._source = report, source
        self.topic = f"{prefix.strip('/')}/{node_id(source)}"
        self.ids = dict(zip(labels, object_ids(labels), strict=True))
        self._states = dict.fromkeys(self.ids.values(), OFF)
        self._is_available, self._is_failing, self._is_closing = True, False, False
        self._client = self._make_client(user, password, tls, ca)
        self._client.connect_async(address.host, port, keepalive=30)
        self._client.loop_start()

    def _make_client(self, user: str | None, password: str | None, tls: bool, ca: str | None) -> Any:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(MAX_WAITING)
        client.reconnect_delay_set(1, 60)
        if user is not None or password is not None:
            client.username_pw_set(user or "", password)
        if tls:
            try:
                client.tls_set(ca_certs=ca)
            except (OSError, ssl.SSLError) as error:
                reason = getattr(error, "strerror", None) or error
                raise OptionError(
                    "mqtt_ca", printable(ca or ""), f"a file of certificates; {one_line(reason)}"
                ) from error
        client.will_set(f"{self.topic}/available", OFFLINE, qos=1, retain=True)
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        return client

    def add(self, alert: Alert, payload: dict[str, Any]) -> None:
        """Queues an alert that begins or ends. Does not block."""
        self._states[self.ids[alert.label]] = OFF if alert.is_over else ON
        if self._client.is_connected():
            self._send_state(self.ids[alert.label])
            self._send_state(ALL)
        self._client.publish(f"{self.topic}/events", json.dumps(payload), qos=1)

    def set_available(self, is_available: bool) -> None:
        """Reports whether there is audio. Without audio, the sensors are unavailable."""
        if is_available != self._is_available:
            self._is_available = is_available
            self._send_available()

    def close(self) -> None:
        """Sends waiting events, for at most `FLUSH_S`, and closes the connection."""
        self._is_closing = True
        if not self._client.is_connected():
            self._report(f"{self._shown}: not connected; events of this time are lost")
        else:
            last = self._client.publish(f"{self.topic}/available", OFFLINE, qos=1, retain=True)
            until = time.monotonic() + FLUSH_S
            while not last.is_published() and time.monotonic() < until and self._client.is_connected():
                time.sleep(0.02)
        self._client.disconnect()
        self._client.loop_stop()

    def _send_state(self, name: str) -> None:
        is_on = ON in self._states.values() if name == ALL else self._states[name] == ON
        self._client.publish(f"{self.topic}/audio/{name}", ON if is_on else OFF, qos=0, retain=True)

    def _send_available(self) -> None:
        self._client.publish(f"{self.topic}/available", ONLINE if self._is_available else OFFLINE, qos=0, retain=True)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        if reason_code.is_failure:
            self._fail(f"refused: {reason_code}")
            return
        for label, name in {**self.ids, "any sound": ALL}.items():
            topic, config = self.discovery(label, name)
            client.publish(topic, json.dumps(config), qos=1, retain=True)
            self._send_state(name)
        self._send_available()
        if self._is_failing:
            self._report(f"{self._shown}: connected")
        self._is_failing = False

    def _on_connect_fail(self, client: Any, userdata: Any) -> None:
        self._fail("cannot be reached")

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        if not self._is_closing:
            self._fail("connection lost")

    def _fail(self, reason: str) -> None:
        if not self._is_failing:
            self._report(f"{self._shown}: {reason}; trying again")
        self._is_failing = True

    def discovery(self, label: str, name: str) -> tuple[str, dict[str, Any]]:
        """Topic and message of Home Assistant's discovery, for the sensor of a class."""
        node = node_id(self._source)
        unique_id = f"ced_{node}_{name}"
        config = {
            "name": label,
            "unique_id": unique_id,
            "state_topic": f"{self.topic}/audio/{name}",
            "payload_on": ON,
            "payload_off": OFF,
            "device_class": "sound",
            "availability_topic": f"{self.topic}/available",
            "device": {"identifiers": [f"ced_{node}"], "name": f"{self._source} sounds", "manufacturer": "ced_model"},
            "origin": {"name": "ced_model"},
        }
        return f"{DISCOVERY}/binary_sensor/{node}/{unique_id}/config", config


def node_id(source: str) -> str:
    """A name as a topic level of `[a-zA-Z0-9_-]`."""
    return object_ids([source], case=str)[0]


def object_ids(labels: Iterable[str], case: Callable[[str], str] = str.lower) -> list[str]:
    """A unique name of `[a-zA-Z0-9_-]` for each label: "Fire alarm" → "fire_alarm"."""
    found: list[str] = []
    for label in labels:
        plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
        name = re.sub("[^a-zA-Z0-9_-]+", "_", case(plain)).strip("_")
        if not name or name in found or name == ALL:  # no Latin letters, or labels that differ only in other characters
            name = f"{name}_{zlib.crc32(label.encode()):08x}".strip("_")
        found.append(name)
    return found
