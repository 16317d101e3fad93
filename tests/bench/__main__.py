"""`bin/bench [GROUP] [--json]`: measure and print figures. Touches: nothing itself."""

from __future__ import annotations

import argparse
import json
from importlib import import_module

GROUPS = ("start", "slurm")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bin/bench", description="Measure figures beside their bare operation."
    )
    parser.add_argument("group", nargs="?", choices=GROUPS, help="default: all groups")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    figures = []
    if not arguments.json:
        print(f"{'name':<14}{'ours':>9}{'bare':>9}{'ratio':>7}  {'range':<12}  {'aim':<6}  met")
    for group in [arguments.group] if arguments.group else GROUPS:
        for figure in import_module(f"tests.bench.{group}").run_group():
            figures.append(figure)
            if not arguments.json:
                low, high = figure.ratio_range
                print(
                    f"{figure.name:<14}{figure.ours:>8.4f}s{figure.bare:>8.4f}s{figure.ratio:>7.2f}  "
                    f"{f'{low:.2f}-{high:.2f}':<12}  {figure.aim:<6}  {'yes' if figure.met else 'no'}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"schema": "ccatwm.bench/1", "figures": [f.to_json() for f in figures]}, indent=2))
    return 0


raise SystemExit(main())
