"""Images for tests with the real Apptainer, built once and kept. Touches: the image cache, /tmp."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

PROJECT = Path(__file__).resolve().parents[2]
BUILDER = PROJECT / "bin" / "build-demo-image"
SMALL = "python3"
ASTROPY = "python3-numpy,python3-astropy,python3-matplotlib"
CANNOT = 77


def require_apptainer() -> None:
    """Skip the test where Apptainer cannot run containers; under CI=true that is a failure."""
    if reason := _why_not():
        _missing(reason)


@cache
def _why_not() -> str | None:
    if shutil.which("apptainer") is None:
        return "Apptainer is not installed (bin/install-apptainer installs it on Debian)"
    done = subprocess.run(["apptainer", "version"], check=False, capture_output=True, text=True)
    return None if done.returncode == 0 else f"apptainer does not start: {done.stderr.strip()[-200:]}"


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def find_image(packages: str = SMALL) -> Path:
    """The image with these Debian packages, built where it is not there yet."""
    require_apptainer()
    recipe = hashlib.sha256(BUILDER.read_bytes() + packages.encode()).hexdigest()[:16]
    image = _cache() / f"test-{recipe}.sif"
    if not image.exists() and (reason := _build(image, packages)):
        _missing(reason)
    return image


@cache
def _build(image: Path, packages: str) -> str | None:
    """Why it could not be built, or None; tried once a worker, and by one at a time."""
    image.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(image.with_suffix(".lock")):
        if image.exists():
            return None
        command = [BUILDER, image, "--packages", packages]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode in (0, CANNOT), done.stderr
    return done.stderr.strip() if done.returncode else None


def _cache() -> Path:
    # An ordinary user reads images from there: a home directory may be closed to others.
    named = os.environ.get("CCATWM_IMAGE_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "ccatwm" / "images"
