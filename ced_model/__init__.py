# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
CED audio taggers.

Names are imported on first use, so tagging needs neither torch nor transformers. Importing this package registers CED
with the Auto classes and pipelines of transformers; transformers may be imported before or after it.
"""

from typing import TYPE_CHECKING

import lazy_loader

from .registration import register_when_imported

if TYPE_CHECKING:
    from .audio import AudioError as AudioError
    from .audio import load_audio as load_audio
    from .audioset import AUDIOSET_LABELS as AUDIOSET_LABELS
    from .bundled import bundled_folder as bundled_folder
    from .class_files import read_label_map as read_label_map
    from .class_files import read_thresholds as read_thresholds
    from .configuration_ced import CedConfig as CedConfig
    from .dataset_rows import dataset_inputs as dataset_inputs
    from .events import Event as Event
    from .feature_extraction_ced import CedFeatureExtractor as CedFeatureExtractor
    from .modeling_ced import CedForAudioClassification as CedForAudioClassification
    from .modeling_ced import CedForAudioFrameClassification as CedForAudioFrameClassification
    from .modeling_ced import CedModel as CedModel
    from .modeling_ced import CedPreTrainedModel as CedPreTrainedModel
    from .pipeline_ced import CedAudioClassificationPipeline as CedAudioClassificationPipeline
    from .results import EmbeddingResult as EmbeddingResult
    from .results import StreamUpdate as StreamUpdate
    from .results import Tag as Tag
    from .results import TagResult as TagResult
    from .results import Timeline as Timeline
    from .tagger import AudioTagger as AudioTagger
    from .writers.event_files import write_events as write_events
    from .writers.read_back import read_events as read_events
    from .writers.read_back import read_timelines as read_timelines

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "audio": ["AudioError", "load_audio"],
        "audioset": ["AUDIOSET_LABELS"],
        "bundled": ["bundled_folder"],
        "class_files": ["read_label_map", "read_thresholds"],
        "configuration_ced": ["CedConfig"],
        "dataset_rows": ["dataset_inputs"],
        "events": ["Event"],
        "feature_extraction_ced": ["CedFeatureExtractor"],
        "modeling_ced": [
            "CedForAudioClassification",
            "CedForAudioFrameClassification",
            "CedModel",
            "CedPreTrainedModel",
        ],
        "pipeline_ced": ["CedAudioClassificationPipeline"],
        "results": ["EmbeddingResult", "StreamUpdate", "Tag", "TagResult", "Timeline"],
        "tagger": ["AudioTagger"],
        "writers.event_files": ["write_events"],
        "writers.read_back": ["read_events", "read_timelines"],
    },
)

register_when_imported()
