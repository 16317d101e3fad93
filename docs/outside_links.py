"""Says which addresses outside are dead, and which did not answer: `outside_links.py output.json`, of Sphinx' linkcheck.

Exit code 0 if all of them are there, 1 if one is dead, 4 if none is but some did not answer (no network, say).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ANSWERED = re.compile(r"\d{3} |Anchor ")
"""How linkcheck begins to tell why a link is broken where the host gave an answer."""


def told(links: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Lines for people, and the exit code, from what linkcheck says of each link."""
    asked = [link for link in links if link["status"] not in ("unchecked", "ignored")]
    bad = [link for link in asked if link["status"] in ("broken", "timeout", "rate-limited")]
    dead = [link for link in bad if link["status"] == "broken" and ANSWERED.match(link["info"])]
    silent = [link for link in bad if link not in dead]
    lines = [f"{link['filename']}:{link['lineno']}: {link['uri']}: {link['info']}" for link in dead]
    lines += [f"{link['filename']}:{link['lineno']}: {link['uri']}: no answer" for link in silent]
    lines.append(f"addresses outside: {len(asked)} asked, {len(dead)} dead, {len(silent)} without an answer")
    return lines, 1 if dead else 4 if silent else 0


def main() -> int:
    """Read what linkcheck left, and say it."""
    lines, code = told([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()])
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
