# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
CED audio taggers.

Names are imported when they are first used: tagging needs neither torch nor transformers. CED joins the Auto classes of
transformers as soon as these are imported, before or after this package.
"""

from typing import TYPE_CHECKING

import lazy_loader

from .registration import register_when_imported

if TYPE_CHECKING:
    from .audio import AudioError as AudioError
    from .audioset import AUDIOSET_LABELS as AUDIOSET_LABELS
    from .bundled import bundled_folder as bundled_folder
    from .configuration_ced import CedConfig as CedConfig
    from .events import Event as Event
    from .feature_extraction_ced import CedFeatureExtractor as CedFeatureExtractor
    from .modeling_ced import CedForAudioClassification as CedForAudioClassification
    from .modeling_ced import CedModel as CedModel
    from .modeling_ced import CedPreTrainedModel as CedPreTrainedModel
    from .results import EmbeddingResult as EmbeddingResult
    from .results import StreamUpdate as StreamUpdate
    from .results import Tag as Tag
    from .results import TagResult as TagResult
    from .results import Timeline as Timeline
    from .tagger import AudioTagger as AudioTagger

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "audio": ["AudioError"],
        "audioset": ["AUDIOSET_LABELS"],
        "bundled": ["bundled_folder"],
        "configuration_ced": ["CedConfig"],
        "events": ["Event"],
        "feature_extraction_ced": ["CedFeatureExtractor"],
        "modeling_ced": ["CedForAudioClassification", "CedModel", "CedPreTrainedModel"],
        "results": ["EmbeddingResult", "StreamUpdate", "Tag", "TagResult", "Timeline"],
        "tagger": ["AudioTagger"],
    },
)

register_when_imported()
