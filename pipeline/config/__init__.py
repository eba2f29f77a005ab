"""One YAML file describes one analysis: checkpoints, inputs, measures, workers and the store."""

from pipeline.config.analysis import Analysis, Cache, GroupOptions, Selection, Workers
from pipeline.config.analysis_paths import measure_files, paths_from
from pipeline.config.faults import Strict, together, validated
from pipeline.config.inputs import (
    ArrayInput,
    DocumentsInput,
    HeldOutInput,
    IndirectObjectInput,
    InputSpec,
    MatchesInput,
    NaturalMatchesInput,
    RepeatedInput,
    TableInput,
    TextInput,
)
from pipeline.config.loading import PRESETS, load_analysis, load_preset
from pipeline.config.places import Place
from pipeline.config.run_layout import RunLayout, with_absolute_paths
from pipeline.config.saved_model import SavedModel, saved_model
from pipeline.config.yaml_files import dump_yaml, flow_yaml, parse_yaml, read_yaml

__all__ = [
    "PRESETS",
    "Analysis",
    "ArrayInput",
    "Cache",
    "DocumentsInput",
    "GroupOptions",
    "HeldOutInput",
    "IndirectObjectInput",
    "InputSpec",
    "MatchesInput",
    "NaturalMatchesInput",
    "Place",
    "RepeatedInput",
    "RunLayout",
    "SavedModel",
    "Selection",
    "Strict",
    "TableInput",
    "TextInput",
    "Workers",
    "dump_yaml",
    "flow_yaml",
    "load_analysis",
    "load_preset",
    "measure_files",
    "parse_yaml",
    "paths_from",
    "read_yaml",
    "saved_model",
    "together",
    "validated",
    "with_absolute_paths",
]
