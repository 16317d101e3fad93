"""Simulates a small CHAI-like on-the-fly campaign of a known source: raw FITS files in tar packages, and what is known
of them as YAML and JSON Lines for `ccatwm ingest`.

Every number of the simulation is here; the same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from astropy.io import fits

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
CHANNELS = 128
CHANNEL_KM_S = 5.0
VELOCITY_KM_S = 240.0  # of the source and of the middle of the band
LINE_FWHM_KM_S = 70.0
SOURCE_NAME, RA_DEG, DEC_DEG = "NGC253", 11.888, -25.2882
SOURCE_PEAK_K, SOURCE_FWHM_ARCSEC = 8.0, 40.0
SOURCE_LON_ARCSEC, SOURCE_LAT_ARCSEC = 14.0, -10.0
BEAM_ARCSEC = 15.0
MAP_ARCSEC, STEP_ARCSEC = 240.0, 8.0
T_HOT_K, T_COLD_K, T_AMB_K, TAU = 292.0, 81.0, 272.0, 0.35
DUMP_SECONDS = 0.5
RIPPLE_K, RIPPLE_PERIOD_CHANNELS = 0.8, 37.0
LATE_START = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
FIRST_START = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)
CORRUPT_SCAN, SPLIT_SCAN = 3, 2


@dataclass(frozen=True)
class Module:
    """An instrument module: its line, rest frequency, receiver temperature and pixel offsets (arcsec)."""

    name: str
    line: str
    rest_ghz: float
    t_rec_k: float
    pixels: tuple[tuple[float, float], ...]
    strength: float


MODULES = (
    Module("LFA", "CO43", 461.0408, 120.0, ((-20, -20), (20, -20), (-20, 20), (20, 20)), 1.0),
    Module("HFA", "CI21", 809.3420, 300.0, ((-12, 0), (12, 0)), 0.3),
)


def truth() -> dict:
    """What was put in: position (arcsec from the map centre) and integrated flux of the CO map."""
    line_area = LINE_FWHM_KM_S * np.sqrt(np.pi / (4.0 * np.log(2.0)))
    solid = np.pi * SOURCE_FWHM_ARCSEC**2 / (4.0 * np.log(2.0))
    return {
        "source": SOURCE_NAME, "lon_off_arcsec": SOURCE_LON_ARCSEC, "lat_off_arcsec": SOURCE_LAT_ARCSEC,
        "flux_k_km_s_arcsec2": float(SOURCE_PEAK_K * line_area * solid),
    }  # fmt: skip


def source_spectrum(lon: np.ndarray, lat: np.ndarray, velocity: np.ndarray, strength: float) -> np.ndarray:
    """T_A* (K) of the source seen by the beam at offsets (arcsec): rows x channels."""
    seen = np.hypot(SOURCE_FWHM_ARCSEC, BEAM_ARCSEC)
    peak = strength * SOURCE_PEAK_K * SOURCE_FWHM_ARCSEC**2 / seen**2
    r2 = (lon - SOURCE_LON_ARCSEC) ** 2 + (lat - SOURCE_LAT_ARCSEC) ** 2
    space = np.exp(-4.0 * np.log(2.0) * r2 / seen**2)
    line = np.exp(-4.0 * np.log(2.0) * ((velocity - VELOCITY_KM_S) / LINE_FWHM_KM_S) ** 2)
    return peak * space[:, None] * line[None, :]


def simulate_scan(
    module: Module, scan: int, start: datetime, blank: bool, rng: np.random.Generator
) -> fits.BinTableHDU:
    """One scan of one module: loads, sky, and OTF lines (each a subscan with its OFF)."""
    velocity = VELOCITY_KM_S + (np.arange(CHANNELS) + 1.0 - CHANNELS / 2.0) * CHANNEL_KM_S
    bandwidth_hz = CHANNEL_KM_S / 299792.458 * module.rest_ghz * 1e9
    transmission = np.exp(-TAU)
    t_sky = T_AMB_K * (1.0 - transmission)
    steps = np.arange(-MAP_ARCSEC / 2, MAP_ARCSEC / 2 + 1e-6, STEP_ARCSEC)
    columns: dict[str, list] = {
        name: [] for name in ("SUBSCAN", "OBSMODE", "PIXEL", "MJD", "EXPTIME", "LON_OFF", "LAT_OFF", "DATA")
    }
    mjd = start.timestamp() / 86400.0 + 40587.0

    def add(mode: str, pixel: int, subscan: int, seconds: float, lon, lat, temperature: np.ndarray) -> None:
        """`temperature`: K at the receiver's input, rows x channels; the rest of the chain makes counts of it."""
        gain = gains[pixel] * (1.0 + 0.15 * np.sin(np.linspace(0, 5, CHANNELS) + pixel))
        total = temperature + module.t_rec_k
        noise = rng.standard_normal(total.shape) / np.sqrt(bandwidth_hz * seconds)
        count = total.shape[0]
        columns["DATA"].append(gain * total * (1.0 + noise))
        columns["SUBSCAN"].append(np.full(count, subscan))
        columns["OBSMODE"].append(np.full(count, mode, dtype="U8"))
        columns["PIXEL"].append(np.full(count, pixel))
        columns["MJD"].append(mjd + np.arange(count) * DUMP_SECONDS / 86400.0)
        columns["EXPTIME"].append(np.full(count, seconds))
        columns["LON_OFF"].append(np.broadcast_to(lon, count))
        columns["LAT_OFF"].append(np.broadcast_to(lat, count))

    gains = 40.0 * (1.0 + 0.1 * rng.standard_normal(len(module.pixels)))
    for pixel, (dx, dy) in enumerate(module.pixels):
        for mode, kelvin in (("HOT", T_HOT_K), ("COLD", T_COLD_K), ("SKY", t_sky)):
            add(mode, pixel, 0, 5.0, 0.0, 0.0, np.full((4, CHANNELS), kelvin))
        for subscan, fixed in enumerate(steps, 1):
            along = steps if subscan % 2 else steps[::-1]
            lon, lat = (
                (along + dx, np.full_like(along, fixed + dy))
                if scan % 2
                else (np.full_like(along, fixed + dx), along + dy)
            )
            add("OFF", pixel, subscan, 4.0, 600.0, 600.0, np.full((2, CHANNELS), t_sky))
            phase = rng.uniform(0, 2 * np.pi)
            ripple = RIPPLE_K * np.sin(2 * np.pi * np.arange(CHANNELS) / RIPPLE_PERIOD_CHANNELS + phase)
            slope = 0.3 * rng.standard_normal() * np.linspace(-1, 1, CHANNELS)
            strength = 0.0 if blank else module.strength
            signal = source_spectrum(lon, lat, velocity, strength)
            add(
                "OTF-ON",
                pixel,
                subscan,
                DUMP_SECONDS,
                lon,
                lat,
                t_sky + (signal + ripple + slope) * transmission,
            )
    return build_table(
        module, scan, start, blank, {name: np.concatenate(parts) for name, parts in columns.items()}
    )


def build_table(
    module: Module, scan: int, start: datetime, blank: bool, columns: dict[str, np.ndarray]
) -> fits.BinTableHDU:
    forms = {"SUBSCAN": "J", "OBSMODE": "8A", "PIXEL": "J", "MJD": "D", "EXPTIME": "E", "LON_OFF": "E", "LAT_OFF": "E",
             "DATA": f"{CHANNELS}E"}  # fmt: skip
    units = {"MJD": "d", "EXPTIME": "s", "LON_OFF": "arcsec", "LAT_OFF": "arcsec", "DATA": "count"}
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name=n, format=forms[n], array=columns[n].astype(np.float32) if n == "DATA" else columns[n], unit=units.get(n))
         for n in forms]
    )  # fmt: skip
    cards = (
        ("EXTNAME", "SPECTRA", ""), ("TELESCOP", "FYST", ""), ("INSTRUME", "CHAI", ""), ("MODULE", module.name, ""),
        ("OBJECT", "BLANK" if blank else SOURCE_NAME, ""), ("SCAN", scan, ""), ("LINE", module.line, ""),
        ("RESTFREQ", module.rest_ghz * 1e9, "Hz"), ("DATE-OBS", start.strftime("%Y-%m-%dT%H:%M:%S"), "UTC"),
        ("RA_REF", RA_DEG, "deg, map centre, ICRS"), ("DEC_REF", DEC_DEG, "deg, map centre, ICRS"),
        ("THOT", T_HOT_K, "K"), ("TCOLD", T_COLD_K, "K"), ("TAMB", T_AMB_K, "K"), ("ELEV", 61.5, "deg"),
        ("VREF", VELOCITY_KM_S, "km/s, at channel VREFPIX"), ("VREFPIX", CHANNELS / 2.0, ""), ("VDELT", CHANNEL_KM_S, "km/s"),
    )  # fmt: skip
    for key, value, comment in cards:
        table.header[key] = (value, comment)
    return table


# --- packages ----------------------------------------------------------------------------------------------------


def pack(path: Path, files: dict[str, bytes], when: datetime) -> dict:
    """A tar of `files`; its size, checksum and file list as `ingest` wants them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), int(when.timestamp())
            archive.addfile(member, io.BytesIO(content))
    content = path.read_bytes()
    listed = [
        {"name": n, "size_bytes": len(c), "checksum": f"sha256:{hashlib.sha256(c).hexdigest()}"}
        for n, c in files.items()
    ]
    return {
        "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "size_bytes": len(content),
        "files": listed,
    }


def fits_bytes(table: fits.BinTableHDU) -> bytes:
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream, checksum=False)
    return stream.getvalue()


def halves(table: fits.BinTableHDU) -> tuple[fits.BinTableHDU, fits.BinTableHDU]:
    """One scan as two files, both with the loads: over the size of one package."""
    data = table.data
    loads = np.isin(data["OBSMODE"], ["HOT", "COLD", "SKY"])
    middle = np.median(data["SUBSCAN"][~loads])
    first, second = loads | (data["SUBSCAN"] <= middle), loads | (data["SUBSCAN"] > middle)
    return fits.BinTableHDU(data[first], header=table.header), fits.BinTableHDU(
        data[second], header=table.header
    )


def corrupt(source: Path, target: Path) -> None:
    """A copy with some bytes flipped in the middle."""
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(b ^ 0x5A for b in content[middle : middle + 64])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(bytes(content))


class Campaign:
    """Writes packages below `archive` and `buffer`, and the observation files of three phases."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._lines: dict[int, list[dict]] = {1: [], 2: [], 3: []}

    def scan(self, scan: int, start: datetime, phase: int, blank: bool = False) -> None:
        unit = f"{'blank' if blank else 'ngc253'}-scan-{scan:04d}"
        for module in MODULES:
            rng = np.random.default_rng([self._seed, scan, len(module.pixels)])
            table = simulate_scan(module, scan, start, blank, rng)
            parts = halves(table) if scan == SPLIT_SCAN and module.name == "LFA" else (table,)
            for number, part in enumerate(parts, 1):
                self._package(unit, scan, module, part, start, phase, number, len(parts), blank)

    def _package(self, unit, scan, module, table, start, phase, number, parts, blank) -> None:
        suffix = f"-part{number}" if parts > 1 else ""
        name = f"CHAI-{module.name}-{start:%Y%m%d}-{scan:04d}{suffix}"
        path = f"{start:%Y/%m/%d}/{name}.tar"
        notes = f"scan {scan} of {unit}, module {module.name}, part {number} of {parts}\n".encode()
        files = {f"scan{scan:04d}/{name}.fits": fits_bytes(table), f"scan{scan:04d}/observer.txt": notes}
        facts = pack(self._folder / "archive" / path, files, start)
        copies = [{"location": "archive", "path": path}]
        if scan == CORRUPT_SCAN and module.name == "LFA":
            corrupt(self._folder / "archive" / path, self._folder / "buffer" / path)
            copies.insert(0, {"location": "buffer", "path": path})
        line = {
            "kind": "raw_data_package", "name": name, "executed_obs_unit": unit, "instrument_module": f"CHAI/{module.name}",
            "state": "archived", **facts, "copies": copies, "created_at": (start + timedelta(minutes=12)).isoformat(),
            "line": module.line, "observation": {"frequency_ghz": module.rest_ghz, "scan": scan},
        }  # fmt: skip
        self._unit(unit, module, start, phase, blank)
        if number == 2:  # known from the beginning, archived later
            self._lines[1].append(
                {k: line[k] for k in ("kind", "name", "executed_obs_unit", "instrument_module")}
                | {"state": "transferring"}
            )
            self._lines[2].append(line)
        else:
            self._lines[phase].append(line)

    def _unit(self, unit: str, module: Module, start: datetime, phase: int, blank: bool) -> None:
        end = start + timedelta(minutes=10)
        line = {"kind": "executed_obs_unit", "name": unit, "obs_unit": "blank-otf" if blank else "ngc253-otf",
                "start_time": start.isoformat(), "end_time": end.isoformat(), "status": "completed"}  # fmt: skip
        if line not in self._lines[phase]:
            self._lines[phase].append(line)

    def write(self) -> None:
        """phase1.yaml and phase{1,2,3}.jsonl beside the data, and truth.json."""
        static = {
            "sites": [{"name": "observatory"}, {"name": "datacenter"}],
            "data_locations": [
                {"name": "archive", "site": "datacenter", "location_type": "long_term_archive", "storage_type": "disk",
                 "priority": 1, "base_path": str(self._folder / "archive")},
                {"name": "buffer", "site": "observatory", "location_type": "buffer", "storage_type": "disk",
                 "priority": 10, "base_path": str(self._folder / "buffer")},
            ],
            "observatories": [{"name": "CCAT"}],
            "telescopes": [{"name": "FYST", "observatory": "CCAT", "longitude_deg": -67.74, "latitude_deg": -22.99, "altitude_m": 5600}],
            "instruments": [{"name": "CHAI", "telescope": "FYST", "instrument_type": "heterodyne"}],
            "instrument_modules": [{"name": m.name, "instrument": "CHAI", "pixels": len(m.pixels), "frequency_ghz": m.rest_ghz} for m in MODULES],
            "observing_programs": [{"short_name": "GEco", "name": "Galactic Ecology"}],
            "sources": [{"name": SOURCE_NAME, "kind": "fixed", "ra_deg": RA_DEG, "dec_deg": DEC_DEG, "frame": "icrs"},
                        {"name": "BLANK", "kind": "fixed", "ra_deg": 12.5, "dec_deg": -25.0, "frame": "icrs"}],
            "obs_units": [{"name": "ngc253-otf", "source": SOURCE_NAME, "observing_program": "GEco", "line_id": "CO43", "obs_mode": "otf"},
                          {"name": "blank-otf", "source": "BLANK", "observing_program": "GEco", "line_id": "CO43", "obs_mode": "otf"}],
        }  # fmt: skip
        # JSON is YAML: no other writer is needed.
        (self._folder / "observatory.yaml").write_text(json.dumps(static, indent=1))
        for phase, lines in self._lines.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self._folder / f"phase{phase}.jsonl").write_text(text)
        (self._folder / "truth.json").write_text(json.dumps(truth(), indent=1))


def simulate(folder: Path, scans: int, seed: int = 253) -> None:
    """`scans` scans of the first night, one late scan of the second, one of another source that no pipeline wants."""
    folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(folder, seed)
    for scan in range(1, scans + 1):
        campaign.scan(scan, FIRST_START + timedelta(minutes=15 * scan), 1)
    campaign.scan(scans + 1, FIRST_START + timedelta(minutes=15 * (scans + 1)), 1, blank=True)
    campaign.scan(scans + 2, LATE_START, 3)
    campaign.write()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Simulate a small on-the-fly campaign as raw data packages.")
    parser.add_argument("folder", type=Path, help="where the data go")
    parser.add_argument(
        "--scans", type=int, default=8, help="scans of the first night (default 8, at least 3)"
    )
    parser.add_argument("--seed", type=int, default=253)
    options = parser.parse_args()
    if options.scans < 3:
        parser.error("at least 3 scans: one has a corrupt copy, one comes in two packages")
    simulate(options.folder.resolve(), options.scans, options.seed)
