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
SCANS_PER_LOAD = 2  # after so many scans the loads are looked at again
GAIN, GAIN_SPREAD = 40.0, 0.1  # counts per K; from pixel to pixel
DRIFT_PER_HOUR = 0.3  # by which the gain grows during a night


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


def night_of(start: datetime) -> datetime:
    """When the receiver was tuned: before anything else is observed in a night."""
    second = LATE_START - timedelta(hours=1)
    return second if start >= second else FIRST_START


def true_gain(module: Module, pixel: int, start: datetime) -> np.ndarray:
    """Counts per K of a pixel by channel: its own in every night, and growing while the night goes on."""
    night = night_of(start)
    spread = np.random.default_rng([night.day, pixel, len(module.pixels)]).standard_normal()
    hours = (start - night).total_seconds() / 3600.0
    level = GAIN * (1.0 + GAIN_SPREAD * spread) * (1.0 + DRIFT_PER_HOUR * hours)
    return level * (1.0 + 0.15 * np.sin(np.linspace(0, 5, CHANNELS) + pixel))


class Receiver:
    """Takes spectra with one module, of what it is pointed at; the rows of a scan gather in `columns`."""

    def __init__(self, module: Module, start: datetime, rng: np.random.Generator) -> None:
        self._module, self._start, self._rng = module, start, rng
        self._columns: dict[str, list] = {
            name: [] for name in ("SUBSCAN", "OBSMODE", "PIXEL", "MJD", "EXPTIME", "LON_OFF", "LAT_OFF", "DATA")
        }

    def add(self, mode: str, pixel: int, subscan: int, seconds: float, lon, lat, temperature: np.ndarray) -> None:
        """`temperature`: K at the receiver's input, rows x channels; the rest of the chain makes counts of it."""
        bandwidth_hz = CHANNEL_KM_S / 299792.458 * self._module.rest_ghz * 1e9
        total = temperature + self._module.t_rec_k
        noise = self._rng.standard_normal(total.shape) / np.sqrt(bandwidth_hz * seconds)
        count = total.shape[0]
        mjd = self._start.timestamp() / 86400.0 + 40587.0
        for name, values in (
            ("DATA", true_gain(self._module, pixel, self._start) * total * (1.0 + noise)),
            ("SUBSCAN", np.full(count, subscan)), ("OBSMODE", np.full(count, mode, dtype="U8")),
            ("PIXEL", np.full(count, pixel)), ("MJD", mjd + np.arange(count) * DUMP_SECONDS / 86400.0),
            ("EXPTIME", np.full(count, seconds)), ("LON_OFF", np.broadcast_to(lon, count)),
            ("LAT_OFF", np.broadcast_to(lat, count)),
        ):  # fmt: skip
            self._columns[name].append(values)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self._columns.items()}


def simulate_loads(module: Module, scan: int, start: datetime, rng: np.random.Generator) -> fits.BinTableHDU:
    """A calibration scan of one module: the hot load, the cold one and the sky, with every pixel."""
    receiver = Receiver(module, start, rng)
    t_sky = T_AMB_K * (1.0 - np.exp(-TAU))
    for pixel in range(len(module.pixels)):
        for mode, kelvin in (("HOT", T_HOT_K), ("COLD", T_COLD_K), ("SKY", t_sky)):
            receiver.add(mode, pixel, 0, 5.0, 0.0, 0.0, np.full((4, CHANNELS), kelvin))
    return build_table(module, scan, start, "LOADS", receiver.columns)


def simulate_scan(
    module: Module, scan: int, start: datetime, blank: bool, rng: np.random.Generator
) -> fits.BinTableHDU:
    """One scan of one module: OTF lines, each a subscan with its OFF. What a count is, loads taken before and after tell."""
    velocity = VELOCITY_KM_S + (np.arange(CHANNELS) + 1.0 - CHANNELS / 2.0) * CHANNEL_KM_S
    transmission = np.exp(-TAU)
    t_sky = T_AMB_K * (1.0 - transmission)
    steps = np.arange(-MAP_ARCSEC / 2, MAP_ARCSEC / 2 + 1e-6, STEP_ARCSEC)
    receiver = Receiver(module, start, rng)
    for pixel, (dx, dy) in enumerate(module.pixels):
        for subscan, fixed in enumerate(steps, 1):
            along = steps if subscan % 2 else steps[::-1]
            lon, lat = (
                (along + dx, np.full_like(along, fixed + dy))
                if scan % 2
                else (np.full_like(along, fixed + dx), along + dy)
            )
            receiver.add("OFF", pixel, subscan, 4.0, 600.0, 600.0, np.full((2, CHANNELS), t_sky))
            phase = rng.uniform(0, 2 * np.pi)
            ripple = RIPPLE_K * np.sin(2 * np.pi * np.arange(CHANNELS) / RIPPLE_PERIOD_CHANNELS + phase)
            slope = 0.3 * rng.standard_normal() * np.linspace(-1, 1, CHANNELS)
            strength = 0.0 if blank else module.strength
            signal = source_spectrum(lon, lat, velocity, strength)
            receiver.add(
                "OTF-ON",
                pixel,
                subscan,
                DUMP_SECONDS,
                lon,
                lat,
                t_sky + (signal + ripple + slope) * transmission,
            )
    return build_table(module, scan, start, "BLANK" if blank else SOURCE_NAME, receiver.columns)


def build_table(
    module: Module, scan: int, start: datetime, seen: str, columns: dict[str, np.ndarray]
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
        ("OBJECT", seen, ""), ("SCAN", scan, ""), ("LINE", module.line, ""),
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
    """One scan as two files: over the size of one package."""
    data = table.data
    first = data["SUBSCAN"] <= np.median(data["SUBSCAN"])
    return fits.BinTableHDU(data[first], header=table.header), fits.BinTableHDU(data[~first], header=table.header)


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
        kind = "blank" if blank else "ngc253"
        for module in MODULES:
            rng = np.random.default_rng([self._seed, scan, len(module.pixels)])
            table = simulate_scan(module, scan, start, blank, rng)
            parts = halves(table) if scan == SPLIT_SCAN and module.name == "LFA" else (table,)
            self._packages(f"{kind}-scan-{scan:04d}", f"{kind}-otf", scan, module, parts, start, phase)

    def loads(self, scan: int, start: datetime, phase: int) -> None:
        """A calibration scan: it serves its neighbours."""
        for module in MODULES:
            rng = np.random.default_rng([self._seed, scan, len(module.pixels)])
            table = simulate_loads(module, scan, start, rng)
            self._packages(f"loads-{scan:04d}", "loads", scan, module, (table,), start, phase)

    def _packages(self, unit, obs_unit, scan, module, parts, start, phase) -> None:
        self._unit(unit, obs_unit, start, phase)
        for number, part in enumerate(parts, 1):
            self._package(unit, scan, module, part, start, phase, number, len(parts))

    def _package(self, unit, scan, module, table, start, phase, number, parts) -> None:
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
        if number == 2:  # known from the beginning, archived later
            self._lines[1].append(
                {k: line[k] for k in ("kind", "name", "executed_obs_unit", "instrument_module")}
                | {"state": "transferring"}
            )
            self._lines[2].append(line)
        else:
            self._lines[phase].append(line)

    def _unit(self, unit: str, obs_unit: str, start: datetime, phase: int) -> None:
        end = start + timedelta(minutes=1 if obs_unit == "loads" else 10)
        line = {"kind": "executed_obs_unit", "name": unit, "obs_unit": obs_unit,
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
                          {"name": "blank-otf", "source": "BLANK", "observing_program": "GEco", "line_id": "CO43", "obs_mode": "otf"},
                          {"name": "loads", "obs_mode": "loads"}],
        }  # fmt: skip
        # JSON is YAML: no other writer is needed.
        (self._folder / "observatory.yaml").write_text(json.dumps(static, indent=1))
        for phase, lines in self._lines.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self._folder / f"phase{phase}.jsonl").write_text(text)
        (self._folder / "truth.json").write_text(json.dumps(truth(), indent=1))


def simulate(folder: Path, scans: int, seed: int = 253) -> None:
    """`scans` scans of the first night, one late scan of the second, one of another source that no pipeline wants.

    The loads are looked at before the first scan of a night, after every second one, and at its end. Those at the end of the
    first night arrive with the missing package; those of the second with its scan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(folder, seed)
    for scan in range(1, scans + 1):
        begin = FIRST_START + timedelta(minutes=15 * scan)
        campaign.scan(scan, begin, 1)
        if (scan - 1) % SCANS_PER_LOAD == 0:
            campaign.loads(100 + scan, begin - timedelta(minutes=2), 1)
    end = FIRST_START + timedelta(minutes=15 * (scans + 1))
    campaign.loads(101 + scans, end - timedelta(minutes=2), 2)
    campaign.scan(scans + 1, end, 1, blank=True)
    campaign.loads(102 + scans, LATE_START - timedelta(minutes=2), 3)
    campaign.scan(scans + 2, LATE_START, 3)
    campaign.loads(103 + scans, LATE_START + timedelta(minutes=12), 3)
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
