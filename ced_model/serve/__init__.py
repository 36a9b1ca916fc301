# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Tagging over HTTP and WebSockets. Requires the extra `[serve]`."""

from .api import create_app
from .server import open_port, serve
from .settings import Settings

__all__ = ["Settings", "create_app", "open_port", "serve"]
