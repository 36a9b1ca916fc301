# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on labelled clips, with transformers' `Trainer`. Options are checked without importing torch."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .options import FinetuningOptions as FinetuningOptions
    from .run import Finetuned as Finetuned
    from .run import finetune as finetune

missing = [name for name in ("accelerate", "datasets", "sklearn") if find_spec(name) is None]
if missing:
    raise ImportError(f'fine-tuning needs {" and ".join(missing)}: pip install "ced_model[train]"')

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"options": ["FinetuningOptions"], "run": ["Finetuned", "finetune"]}
)
