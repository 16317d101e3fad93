"""What the demo's reduction programs share: the contract's places, spectra in FITS, and small fits."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

SPEED_OF_LIGHT_KM_S = 299792.458
FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True)
class Places:
    """Where the contract says things are."""

    manifest: dict
    input: Path
    workspace: Path
    output: Path

    def inputs(self, kind: str) -> list[dict]:
        return [item for item in self.manifest["inputs"] if item["kind"] == kind]

    @property
    def config(self) -> dict:
        return self.manifest["config"]


def read_places() -> Places:
    """The manifest and the folders of this run (container contract v1)."""
    output = Path(os.environ["WORKFLOW_OUTPUT_DIR"])
    for name in ("science", "qa", "plots", "statistics"):
        (output / name).mkdir(parents=True, exist_ok=True)
    return Places(
        json.loads(Path(os.environ["WORKFLOW_MANIFEST"]).read_text()),
        Path(os.environ["WORKFLOW_INPUT_DIR"]),
        Path(os.environ["WORKFLOW_WORKSPACE_DIR"]),
        output,
    )


def raw_files(places: Places, companion: str | None = None) -> list[Path]:
    """All raw FITS files of the sub-group's packages, or of the companions of this name."""
    packages = [item for item in places.inputs("package") if item.get("companion") == companion]
    return sorted(path for item in packages for path in Path(item["path"]).rglob("*.fits"))


def upstream_files(places: Places) -> list[Path]:
    """All calibrated FITS files that upstream steps made."""
    paths = [Path(item["path"]) for item in places.inputs("product")]
    return sorted(path for path in paths if path.suffix == ".fits")


def read_spectra(path: Path) -> tuple[fits.Header, dict[str, np.ndarray]]:
    """Header and columns of a file of spectra, in this machine's byte order."""
    with fits.open(path) as hdus:
        table = hdus["SPECTRA"]
        columns = {name: np.asarray(table.data[name]) for name in table.columns.names}
        native = {name: c.astype(c.dtype.newbyteorder("=")) for name, c in columns.items()}
        return table.header.copy(), native


def write_spectra(path: Path, header: fits.Header, columns: dict[str, tuple[str, np.ndarray]]) -> None:
    """A table of spectra; `columns`: name -> (FITS format, values). Keeps the header's keywords about the observation."""
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name=name, format=form, array=values) for name, (form, values) in columns.items()]
    )
    table.header["EXTNAME"] = "SPECTRA"
    for card in header.cards:
        if card.keyword and not card.keyword.startswith(STRUCTURAL) and card.keyword not in table.header:
            table.header.append(card)
    table.writeto(path, overwrite=True, checksum=True)


STRUCTURAL = (
    "XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "TFIELDS", "TTYPE", "TFORM", "TUNIT", "TDIM", "EXTNAME",
    "CHECKSUM", "DATASUM", "COMMENT", "HISTORY",
)  # fmt: skip


def velocity_axis(header: fits.Header, channels: int) -> np.ndarray:
    """Velocities of the channels, km/s (FITS: CRVAL, CDELT, CRPIX of the spectral axis)."""
    return header["VREF"] + (np.arange(channels) + 1.0 - header["VREFPIX"]) * header["VDELT"]


def fail(message: str, code: int = 1) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
