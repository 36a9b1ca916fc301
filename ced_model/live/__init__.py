# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Live audio from microphones, streams and pipes, and alerts."""
