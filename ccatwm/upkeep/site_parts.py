"""Says what the parts of a site that `init` made are for. Pure."""

from __future__ import annotations

from pathlib import Path

from ccatwm.settings.find import MARK_FILE, SETTINGS_FILE
from ccatwm.settings.schema import Settings
from ccatwm.upkeep.opsdb_map import map_path


def part_purpose(line: str, folder: Path, settings: Settings) -> str:
    """What a line of `InitReport.made` is for; empty where it says so itself."""
    path = line.rstrip("/")
    by_path = {
        str(folder): "the site: this folder is what --site names",
        str(folder / SETTINGS_FILE): "its settings, each with a comment; edit them",
        str(settings.pipeline_base_dir): "run directories and products",
        str(folder / "raw"): "a place for raw data; data that lie elsewhere may stay there",
        str(map_path(settings)): "what their tables, columns and words are called: read it, and correct it",
        str(settings.state_dir): "locks, logs, records of jobs of this host",
    }
    if path in by_path:
        return by_path[path]
    by_beginning = {
        "observation tables": "what was observed and where it lies: `ingest` fills them",
        "pipeline tables": "what is to be made of it, and what was: `apply` and the passes fill them",
        f"data location {settings.processing_location} ": "where inputs are brought to and products are made",
        "data location raw ": "packages in it are found by their path below it",
    }
    found = next((purpose for beginning, purpose in by_beginning.items() if path.startswith(beginning)), "")
    return found or ("whose the run directories are, so that no other site takes them" if path.endswith(MARK_FILE) else "")
