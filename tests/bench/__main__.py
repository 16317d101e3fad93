"""`bin/bench [GROUP] [--json] [--large]`: measure and print figures. Touches: nothing itself."""

from __future__ import annotations

import argparse
import json
from importlib import import_module

LARGE = 10_000_000
GROUPS = ("start", "grouping", "slurm", "data")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bin/bench", description="Measure figures beside their bare operation."
    )
    parser.add_argument("group", nargs="?", choices=GROUPS, help="default: all groups")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--large", action="store_true", help="with grouping: at ten million packages (takes an hour and 35 GB)"
    )
    parser.add_argument("--packages", type=int, default=LARGE, help="with --large: at so many instead, to try it")
    arguments = parser.parse_args()
    if arguments.large and arguments.group != "grouping":
        parser.error("--large belongs to the group grouping")
    options = {"large": arguments.packages} if arguments.large else {}
    figures = []
    if not arguments.json:
        print(f"{'name':<24}{'ours':>9}{'bare':>9}{'ratio':>7}  {'range':<12}  {'aim':<6}  met")
    for group in [arguments.group] if arguments.group else GROUPS:
        for figure in import_module(f"tests.bench.{group}").run_group(**options):
            figures.append(figure)
            if not arguments.json:
                low, high = figure.ratio_range
                print(
                    f"{figure.name:<24}{figure.ours:>8.4f}s{figure.bare:>8.4f}s{figure.ratio:>7.2f}  "
                    f"{f'{low:.2f}-{high:.2f}':<12}  {figure.aim:<6}  {'yes' if figure.met else 'no'}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"schema": "ccatwm.bench/1", "figures": [f.to_json() for f in figures]}, indent=2))
    return 0


raise SystemExit(main())
