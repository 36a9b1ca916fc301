# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
An RTSP server of GStreamer with video and audio, like a camera. Requires the system's python3, which has gi.

    python3 rtsp_server.py PORT [USER PASSWORD]

Paths: /pcma, /l16 and /opus (video and audio), and /video without audio.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

VIDEO = (
    "videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=5/1 ! jpegenc"
    " ! rtpjpegpay name=pay0 pt=26"
)
ROLE = "viewer, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
SOUND = "audiotestsrc is-live=true wave=sine freq=1000 volume=0.5 ! audioconvert ! audioresample"
AUDIO = {
    "/pcma": f"{SOUND} ! audio/x-raw,rate=8000,channels=1 ! alawenc ! rtppcmapay name=pay1 pt=8",
    "/l16": f"{SOUND} ! audio/x-raw,rate=16000,channels=1 ! rtpL16pay name=pay1 pt=97",
    "/opus": f"{SOUND} ! audio/x-raw,rate=48000,channels=2 ! opusenc ! rtpopuspay name=pay1 pt=98",
    "/video": "",
}

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_service(sys.argv[1])
if len(sys.argv) > 2:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(sys.argv[2], sys.argv[3]), token)
    server.set_auth(auth)
for path, audio in AUDIO.items():
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {VIDEO} {audio} )")
    factory.set_shared(True)
    if len(sys.argv) > 2:
        factory.add_role_from_structure(Gst.Structure.from_string(ROLE)[0])
    server.get_mount_points().add_factory(path, factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
