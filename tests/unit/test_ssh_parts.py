"""The pure parts of the connection: path map, known_hosts, hops, the breaker."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccatwm.core.path_map import path_there
from ccatwm.edges.transport._breaker import LoginBreaker
from ccatwm.edges.transport._known_hosts import fingerprint, host_name, keys_of, ordered_kinds
from ccatwm.errors import LoginError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/data/raw", "/projects/ccat/raw"),
        ("/data", "/projects/ccat"),
        ("/data/fast/x", "/scratch/x"),
        ("/database/x", "/database/x"),
        ("/elsewhere", "/elsewhere"),
        ("relative", "relative"),
    ],
)
def test_a_path_is_mapped_by_the_longest_folder_it_lies_in(path: str, there: str) -> None:
    assert path_there(path, {"/data": "/projects/ccat", "/data/fast/": "/scratch"}) == there


# --- known_hosts ----------------------------------------------------------------------------------------------------

A, B = "AAAAC3NzaC1lZDI1NTE5AAAAIAAA", "AAAAC3NzaC1lZDI1NTE5AAAAIBBB"


def blobs(text: str, name: str) -> list[bool]:
    """One entry per key found: whether it is revoked."""
    return [key.revoked for key in keys_of(text, name)]


@pytest.mark.parametrize(
    ("line", "name", "found"),
    [
        (f"login ssh-ed25519 {A}", "login", [False]),
        (f"login,192.0.2.1 ssh-ed25519 {A} a comment", "192.0.2.1", [False]),
        (f"LOGIN ssh-ed25519 {A}", "login", [False]),
        (f"login ssh-ed25519 {A}", "[login]:2222", []),
        (f"[login]:2222 ssh-ed25519 {A}", "[login]:2222", [False]),
        (f"*.cluster ssh-ed25519 {A}", "login.cluster", [False]),
        (f"*.cluster,!bad.cluster ssh-ed25519 {A}", "bad.cluster", []),
        (f"login? ssh-ed25519 {A}", "login1", [False]),
        (f"@revoked * ssh-ed25519 {A}", "login", [True]),
        (f"@cert-authority * ssh-ed25519 {A}", "login", []),
        (f"# login ssh-ed25519 {A}", "login", []),
        ("login ssh-ed25519", "login", []),
        ("login ssh-ed25519 ***", "login", []),
        ("|1|broken ssh-ed25519 {A}", "login", []),
        ("", "login", []),
    ],
)
def test_lines_of_known_hosts(line: str, name: str, found: list[bool]) -> None:
    assert blobs(line, name) == found


def test_names_that_ssh_keygen_hashed_are_found(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"[login]:2222 ssh-ed25519 {A}\nother ssh-ed25519 {B}\n")
    try:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no ssh-keygen that takes this file")
    text = file.read_text()
    assert "login" not in text
    assert len(keys_of(text, "[login]:2222")) == 1
    assert keys_of(text, "login") == []


def test_known_kinds_of_host_keys_are_asked_for_first() -> None:
    known = keys_of(f"h ssh-rsa {A}\n", "h")
    offered = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")
    assert ordered_kinds(offered, known) == (
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
    )


def test_a_host_on_another_port_has_a_name_of_its_own() -> None:
    assert (host_name("h", 22), host_name("h", 2222)) == ("h", "[h]:2222")
    assert fingerprint(b"x").startswith("SHA256:")


# --- the breaker ----------------------------------------------------------------------------------------------------


class StillClock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def refusal() -> LoginError:
    return LoginError("refused", where="ssh ccat@login", next="see to it")


def test_a_refusal_stops_attempts_for_half_an_hour_then_twice_as_long_and_a_day_at_most(
    tmp_path: Path,
) -> None:
    clock = StillClock()
    breaker = LoginBreaker(tmp_path / "breaker.json", clock)
    breaker.check("w", lambda: "me")
    for hours in (0.5, 1, 2, 4, 8, 16, 24, 24):
        told = breaker.refuse(refusal(), "me")
        until = clock.at + timedelta(hours=hours)
        assert f"no new attempt before {until:%Y-%m-%d %H:%M} UTC" in str(told)
        assert f"rm {tmp_path}/breaker.json" in told.next
        clock.sleep(hours * 3600 - 1)
        with pytest.raises(LoginError) as still:
            breaker.check(told.where, lambda: "me")
        assert str(still.value) == str(told), "the same words, so that it is told once"
        clock.sleep(1)
        breaker.check("w", lambda: "me")


def test_success_another_key_or_the_removed_file_let_the_next_attempt_through(tmp_path: Path) -> None:
    clock = StillClock()
    breaker = LoginBreaker(tmp_path / "state" / "breaker.json", clock)
    breaker.refuse(refusal(), "me")
    breaker.check("w", lambda: "me with another key")
    breaker.reset()
    breaker.check("w", lambda: "me")
    assert "12:30" in str(breaker.refuse(refusal(), "me")), "counting began anew"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"until": "2026-03-01T13:00:00"}', b"\xff"])
def test_a_breaker_file_that_cannot_be_read_holds_nobody_up(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "breaker.json").write_bytes(content)
    LoginBreaker(tmp_path / "breaker.json", StillClock()).check("w", lambda: "me")
