"""The stable path of a sub-group: a link to the output of the run that counts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from ccatwm.core.gap import EXCLUDED

LATEST = "latest"


@dataclass(frozen=True)
class LatestLink:
    """What `{pipeline}/{step}/{sub_group}/latest` has to be: `run_id` None where no product is to be used."""

    sub_group_id: int
    pipeline: str
    step: str
    sub_group: str
    run_id: int | None

    @property
    def path(self) -> PurePosixPath:
        """Below the base directory."""
        return latest_path(self.pipeline, self.step, self.sub_group)

    @property
    def target(self) -> str | None:
        """Beside it, so that the base directory may have other names elsewhere."""
        return None if self.run_id is None else latest_target(self.run_id)


def latest_target(run_id: int) -> str:
    return f"run-{run_id}/output"


def latest_path(pipeline: str, step: str, sub_group: str) -> PurePosixPath:
    """Below the base directory."""
    return PurePosixPath(pipeline, step, sub_group, LATEST)


def is_usable(stale: str | None) -> bool:
    """Whether a current product is to be used: one that is only older than what is wanted is the best there is."""
    return not (stale or "").startswith(EXCLUDED)
