"""Judges further options of the batch system, as steps and settings may add them: one option per item. Pure."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Options travel as one argument each, which no shell reads: a value may have spaces.
_FLAG = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*(=.*)?")
# Options of sbatch that say what ccatwm itself says: where a job starts, held, under which name and limits.
OWN_FLAGS = (
    "--array", "-a", "--chdir", "-D", "--clusters", "-M", "--cpus-per-task", "-c", "--error", "-e",
    "--export", "--export-file", "--get-user-env", "--gid", "--hold", "-H", "--input", "-i",
    "--job-name", "-J", "--mem", "--no-requeue", "--nodes", "-N", "--ntasks", "-n", "--output", "-o",
    "--parsable", "--partition", "-p", "--account", "-A", "--qos", "-q", "--constraint", "-C", "--gpus",
    "-G", "--quiet", "-Q", "--requeue", "--signal", "--time", "-t", "--uid", "--wait", "-W", "--wrap",
)  # fmt: skip
# With these sbatch exits 0 and has made no job (sbatch(1)).
JOBLESS_FLAGS = ("--help", "-h", "--usage", "--test-only", "--version", "-V")
# Short options of sbatch without a value, or with one that may be left out: others may follow in the same word.
_BUNDLING = re.compile(r"-[Oks].+")


def flag_problem(text: str) -> str | None:
    """What is wrong with an option, or None."""
    if _CONTROL.search(text):
        return "has a control character (line break, tab, NUL, ...)"
    if not _FLAG.fullmatch(text):
        return "is no single scheduler option, such as --exclusive or --mail-type=END"
    option = text.partition("=")[0] if text.startswith("--") else text[:2]
    if _is_one_of(JOBLESS_FLAGS, option):
        return "is an option with which sbatch ends without a job"
    if _is_one_of(OWN_FLAGS, option):
        return (
            "is an option that ccatwm sets itself (from cpu, memory_gb, partition, ... or for its protocol)"
        )
    if _BUNDLING.fullmatch(text):
        return "may be several options: write each as an item of its own, by its long name"
    return None


def _is_one_of(known: tuple[str, ...], option: str) -> bool:
    """getopt_long(3) takes any beginning of a long option for it."""
    return any(own == option or (option.startswith("--") and own.startswith(option)) for own in known)
