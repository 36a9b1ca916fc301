# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Live audio of microphones, streams and pipes, and alerts about it."""
