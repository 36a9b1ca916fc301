# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo as a Space: `ced_model/` and `resources/` are in the same folder as this file."""

from ced_model.demo import Limits, launch

if __name__ == "__main__":
    launch(limits=Limits(megabytes=50, minutes=5))
