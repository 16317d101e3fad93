"""What to type, for `--help`: a line or a few of each command, with what it is good for. Pure."""

from __future__ import annotations

_PASS = "what it would do, and why; nothing is changed"
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "trigger": (
        ("ccatwm trigger --pipeline maps --step grid --reason 'for the paper'", "ask for what is missing"),
        (
            "ccatwm trigger --pipeline maps --step grid --trial config.fit=3 --reason wavy",
            "runs that never count",
        ),
        ("ccatwm trigger --full", "compare everything, as the crontab does once a day"),
    ),
    "resolve": (("ccatwm resolve --dry-run", _PASS),),
    "stage": (("ccatwm stage --dry-run", _PASS), ("ccatwm stage --wait", "after another `stage` that is at work")),
    "submit": (("ccatwm submit --limit 10", "ten runs, to see whether they do well"),),
    "poll": (("ccatwm poll --json", "for a script"),),
    "collect": (("ccatwm collect --dry-run", _PASS),),
    "cycle": (
        ("ccatwm cycle --until-idle", "all that can be done now, on a machine of one's own"),
        ("ccatwm cycle --dry-run", "what would be made, and why; what not, and why not"),
    ),
    "init": (
        ("ccatwm init", "a site in ./ccatwm-data, nothing to edit"),
        ("ccatwm init --opsdb postgresql://reader@db/observatory site", "on a database that is there"),
    ),
    "apply": (
        ("ccatwm apply pipelines.yaml --dry-run", "what would change, and how many runs follow"),
        ("ccatwm apply *.yaml --reason 'new season'", "all in one transaction"),
    ),
    "ingest": (
        ("ccatwm ingest night.yaml", "packages with name, location and path, and what is known of them"),
        ("ccatwm ingest --scan data --pattern '{source}/{obs_date}/{scan}.fits'", "as they lie in a folder"),
    ),
    "completion": (('eval "$(ccatwm completion bash)"', "in ~/.bashrc"),),
    "status": (("ccatwm status", ""), ("ccatwm status --pipeline maps --step grid", "")),
    "runs": (
        ("ccatwm runs --status FAILED --since 2d", "what failed in the last two days"),
        ("ccatwm runs --pipeline maps --json", "for a script"),
    ),
    "products": (
        ("ccatwm products --pipeline maps --step grid --type SCIENCE", "maps that count now"),
        ("ccatwm products --rule qa.rms_k:lt:0.2 --rule dims.line:eq:CO43", "by what their programs said of them"),
        ("ccatwm products --all --since 2026-03-01 --limit 1000", "whatever was made since"),
    ),
    "show": (("ccatwm show 17", "with the last lines of its logs, and what to type next"),),
    "compare": (("ccatwm compare 17 42", "a run that counts, and a trial"),),
    "logs": (("ccatwm logs 17 --stderr", ""), ("ccatwm logs 17 --attempt 1", "of an attempt before")),
    "explain": (
        ("ccatwm explain maps grid", "why it ran, or does not, and what would change that"),
        ("ccatwm explain maps calibrate executed_obs_unit=1234", "of one sub-group"),
    ),
    "lineage": (
        ("ccatwm lineage 5", "down to the raw data"),
        ("ccatwm lineage package:CHAI-2026-03-01-0007", "all that stands on it"),
    ),
    "command": (("ccatwm command 17", "to be pasted into a shell"),),
    "rerun": (
        ("ccatwm rerun 17 --by-hand /tmp/try", "the same inputs, output in that folder"),
        ("ccatwm rerun 17 --by-hand /tmp/look --shell", "a shell in its container"),
        ("ccatwm rerun 17 --by-hand /tmp/other --set baseline.order=3", "with another configuration"),
    ),
    "rebuild": (
        ("ccatwm rebuild 5 --dir /tmp/again", "with all that it stands on, and whether it is the same"),
        ("ccatwm rebuild 5 --dir /tmp/again --jobs 4 --json", "for a script; 0: identical, or the same data"),
    ),
    "history": (
        ("ccatwm history --since 7d", "who did what this week"),
        ("ccatwm history 17", "of a run"),
        ("ccatwm history maps --text", "with the files that were applied"),
    ),
    "retry": (
        ("ccatwm retry 17 --reason 'disk was full'", ""),
        ("ccatwm retry --class node-failure --reason 'rack is back' --wait", "and watch"),
    ),
    "cancel": (("ccatwm cancel --pipeline maps --step grid --reason 'wrong beam' --dry-run", "which it would be"),),
    "hold": (
        ("ccatwm hold maps/grid --reason 'new beam model is coming'", "nothing new of it starts"),
        ("ccatwm hold 17 --reason 'a look first'", "one run"),
    ),
    "release": (
        ("ccatwm release maps/grid", ""),
        ("ccatwm release maps/grid --retry --reason 'image is mended'", "a step that was tripped, with what failed"),
    ),
    "exclude": (
        ("ccatwm exclude package:CHAI-0007 --reason 'LO drifted' --dry-run", "what stands on it"),
        ("ccatwm exclude software:reduce@1.2.0 --reason 'wrong flux' --until 7d", "for a week"),
        ("ccatwm exclude --list", "what is excluded, since when, by whom"),
    ),
    "include": (("ccatwm include 3 --reason 'was fine'", "by the number that `exclude --list` shows"),),
    "accept": (
        ("ccatwm accept maps grid --dry-run", "what differs, and in how many sub-groups"),
        ("ccatwm accept maps grid --reason 'differs in a comment only'", "no run is made of it"),
    ),
    "promote": (("ccatwm promote 42 --reason 'order 3 is better'", "a trial counts from now on"),),
    "publish": (
        ("ccatwm publish chai-dr1 17 run:5 --contact maps@example.org", "frozen from now on"),
        ("ccatwm publish chai-dr1 --doi 10.12345/chai-dr1", "once there is one"),
        ("ccatwm publish chai-dr1", "what it holds, and whether it is affected"),
    ),
    "backfill": (
        ("ccatwm backfill maps --since 2026-03-01 --until 2026-06-01 --dry-run", "runs, bytes, core hours"),
        (
            "ccatwm backfill maps --since 90d --until 7d --limit-runs 500 --reason 'DR1'",
            "so many and no more",
        ),
        ("ccatwm backfill 2 --pause --reason 'nodes are needed'", "or --resume, --cancel; --list shows all"),
    ),
    "pause": (("ccatwm pause --reason upgrade --wait", "until no pass is at work; jobs go on"),),
    "resume": (("ccatwm resume", ""),),
    "doctor": (
        ("ccatwm doctor", "settings, database, disks, batch system, one small job"),
        ("ccatwm doctor --reconcile", "after a restore: what the ops-db does not know"),
        ("ccatwm doctor --reconcile --import", "the same; completed runs have rows again"),
    ),
    "gc": (
        ("ccatwm gc --dry-run", "what would go by which rule, and what becomes free"),
        ("ccatwm gc", "once a day by cron"),
        ("ccatwm gc --undo 42 --reason 'needed after all'", "as long as it lies in the trash"),
    ),
    "fsck": (
        ("ccatwm fsck", "by size; changes nothing"),
        ("ccatwm fsck --full", "reads every byte"),
        ("ccatwm fsck --yes --reason 'disk 3 was lost'", "what counts and is gone is made again"),
        ("ccatwm fsck --yes --reason 'disk 3 was lost' --lost 900", "more than CONFIRM_RUNS of them"),
        ("ccatwm fsck --import", "rows of completed runs that the ops-db does not know"),
    ),
    "health": (("ccatwm health", "whether all is well; once an hour by cron"),),
    "schema": (("ccatwm schema pipeline > pipeline.schema.json", "for an editor"),),
    "config show": (("ccatwm config show", "each setting, and where it comes from"),),
    "db backup": (("ccatwm db backup /backup/ccatwm-monday", "as it is now, while passes go on"),),
    "db restore": (
        ("ccatwm db restore /backup/ccatwm-monday --yes", "after `ccatwm pause --wait`"),
    ),
    "db upgrade": (("ccatwm db upgrade", "after `ccatwm pause --wait` and a backup"),),
    "db check": (("ccatwm db check", ""),),
    "db roles": (("ccatwm db roles --readers astronomers | psql", "the GRANTs, by the owner of the tables"),),
    "groupings list": (("ccatwm groupings list", ""),),
    "groupings show": (("ccatwm groupings show ngc253-co43 --group-by source", "counts and sizes"),),
    "contract check": (
        ("ccatwm contract check chai.sif --command chai-calibrate --input night", "an image"),
        ("ccatwm contract check --runtime none --command ./reduce.py --input night", "a program of this host"),
    ),
}  # fmt: skip


WIDTH = 76


def example_lines(command: str) -> list[str]:
    """The lines of a command: what to type, and what for beside or below it."""
    lines: list[str] = []
    for typed, why in EXAMPLES.get(command, ()):
        beside = f"{typed}   # {why}"
        lines += [typed] if not why else [beside] if len(beside) <= WIDTH else [typed, f"    # {why}"]
    return lines
