"""A private one-node Slurm cluster on this machine, with accounting, SSH and Apptainer. See `--help`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import lifecycle
import processes
import services
from layout import DEFAULT_DIR, CannotError, ClusterError, Layout, read_layout, site_needs

CANNOT = 77
DESCRIPTION = """\
A real one-node Slurm cluster on this machine, to try ccatwm on and for its tests: Slurm with accounting (munge, MariaDB,
slurmdbd, slurmctld, slurmd), sshd with a throw-away user, and Apptainer. All of it lives in one folder, on ports of its
own on 127.0.0.1, beside whatever Slurm or SSH the machine has. Needs root on Debian."""
EPILOG = """\
services: munge mariadb slurmdbd slurmctld slurmd sshd
exit codes: 0 done, 1 it failed or is not up, 2 wrong usage, 77 a cluster cannot be had here (the reason is told)

examples:
  bin/cluster up
  eval "$(bin/cluster env)" && sinfo && sbatch --wrap 'hostname'
  bin/cluster pause slurmctld; bin/cluster continue slurmctld
  bin/cluster down"""


def main() -> int:
    options = _parser().parse_args()
    try:
        if os.geteuid() != 0 and options.run not in (_status, _env):
            raise CannotError("only root can start daemons and make their user; run it as root")
        code: int = options.run(options)
    except CannotError as error:
        return _fail(error, CANNOT)
    except ClusterError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # Whoever read has seen enough. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted; `bin/cluster down` clears up", 130)
    return code


def _fail(error: object, code: int) -> int:
    print(f"cluster: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "bin/cluster",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    up = _verb(verbs, "up", "install what is missing, start it and wait until all of it answers", _up)
    up.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a line of slurm.conf; repeatable"
    )
    up.add_argument("--max-array-size", type=int, metavar="N", help="short for --set MaxArraySize=N")
    up.add_argument("--no-apptainer", action="store_true", help="do not install Apptainer")
    status = _verb(verbs, "status", "which services answer, and how to use the cluster", _status)
    status.add_argument("--json", action="store_true", help="the same for programs")
    _verb(verbs, "env", "shell commands that point Slurm's commands, and the site sandbox, at it", _env)
    _verb(verbs, "down", "cancel its jobs, stop it, remove its user and folder", _down)
    for name, (what, action) in ACTIONS.items():
        verb = _verb(
            verbs, name, what, lambda options, action=action: action(_existing(options), options.service)
        )
        verb.add_argument("service", choices=services.SERVICES)
    return parser


def _verb(verbs: Any, name: str, what: str, action: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=what, description=what)
    default = os.environ.get("CCATWM_CLUSTER_DIR", DEFAULT_DIR)
    parser.add_argument(
        "--dir", type=_folder, default=_folder(default), help="its folder (default: %(default)s)"
    )
    parser.set_defaults(run=action)
    return parser


def _folder(text: str) -> Path:
    return Path(os.path.abspath(text))


def _settings(options: argparse.Namespace) -> dict[str, str]:
    settings = {}
    for text in options.set:
        key, sign, value = text.partition("=")
        if not (key.isalnum() and sign and value) or "\n" in value:
            raise ClusterError(f"--set {text}: not KEY=VALUE; see slurm.conf(5) for the keys")
        settings[key] = value
    if options.max_array_size is not None:
        settings["MaxArraySize"] = str(options.max_array_size)
    return settings


def _up(options: argparse.Namespace) -> int:
    document = lifecycle.bring_up(options.dir, _settings(options), apptainer=not options.no_apptainer)
    if reason := document.get("apptainer_reason"):
        print(f"cluster: no Apptainer: {reason}", file=sys.stderr)
    _print_status(document)
    return 0 if document["up"] else 1


def _status(options: argparse.Namespace) -> int:
    layout = read_layout(options.dir)
    if layout is None and not options.json:
        raise ClusterError(f"there is none in {options.dir}; start one: bin/cluster up")
    document = lifecycle.describe(layout) if layout else lifecycle.describe_nothing(options.dir)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _print_status(document)
    return 0 if document["up"] else 1


def _print_status(document: dict[str, Any]) -> None:
    folder = document["dir"]
    print(f"cluster in {folder}: {'up' if document['up'] else 'not up (bin/cluster up repairs it)'}")
    for name, service in document["services"].items():
        pid = f"pid {service['pid']}" if service["pid"] else "not running"
        port = f"port {document['ports'][name]}" if name in document["ports"] else ""
        print(f"  {name:10} {'answers' if service['answers'] else 'SILENT ':8} {pid:12} {port}".rstrip())
    limits = f"enforced ({document['memory_plugin']})" if document["memory_enforced"] else "not enforced here"
    print(
        f"  partitions {' '.join(document['partitions'])}, account {document['account']}; memory limits {limits}"
    )
    print(
        f"  Apptainer {'works' if document['apptainer'] else 'is not there'}; shared folder {document['scratch']}"
    )
    print(f"here:   export SLURM_CONF={document['slurm_conf']}")
    print(f"by SSH: ssh -F {folder}/ssh/config sandbox")
    if document["site_needs"]:
        print("site sandbox needs (as `bin/cluster env` says, too):")
        for line in _exports(document["site_needs"]):
            print(f"  {line}")


def _env(options: argparse.Namespace) -> int:
    layout = _existing(options)
    for line in _exports({"SLURM_CONF": str(layout.slurm_conf), **site_needs(layout)}):
        print(line)
    return 0


def _exports(variables: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _down(options: argparse.Namespace) -> int:
    if not lifecycle.take_down(options.dir):
        print(f"cluster: there is none in {options.dir}", file=sys.stderr)
    return 0


def _existing(options: argparse.Namespace) -> Layout:
    layout = read_layout(options.dir)
    if layout is None:
        raise ClusterError(f"there is none in {options.dir}; start one: bin/cluster up")
    return layout


def _start(layout: Layout, service: str) -> int:
    services.ensure_started(layout, service)
    return 0


def _stop(layout: Layout, service: str) -> int:
    processes.stop_process(layout, service)
    return 0


def _signal(number: signal.Signals) -> Any:
    def action(layout: Layout, service: str) -> int:
        if not processes.send(layout, service, number):
            raise ClusterError(f"{service} is not running; start it: bin/cluster start {service}")
        return 0

    return action


def _kill(layout: Layout, service: str) -> int:
    _signal(signal.SIGKILL)(layout, service)
    processes.wait_until(lambda: processes.find_pid(layout, service) is None, 5.0)
    return 0


ACTIONS = {
    "start": ("start a service and wait until it answers", _start),
    "stop": ("stop a service in good order", _stop),
    "kill": ("end a service at once (SIGKILL)", _kill),
    "pause": ("make a service fall silent with its connections open (SIGSTOP)", _signal(signal.SIGSTOP)),
    "continue": ("let a paused service go on (SIGCONT)", _signal(signal.SIGCONT)),
}

if __name__ == "__main__":
    sys.exit(main())
