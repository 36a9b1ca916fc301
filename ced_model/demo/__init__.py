# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo: a web page and an API. Requires the extra `[demo]`. `launch` and `start` serve it."""

from .limits import Limits
from .server import launch, start

__all__ = ["Limits", "launch", "start"]
