"""The folder of a private cluster: where one may be made, and what the site `sandbox` needs to use it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.quick

FILE = Path(__file__).resolve().parents[2] / "site-configs" / "sandbox" / "cluster" / "layout.py"


@pytest.fixture
def layout() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("cluster_layout", FILE)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def folder(layout: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of tests are closed to others and have long names: that is not what is looked at here."""
    monkeypatch.setattr(layout, "LONGEST_DIR", 1000)
    monkeypatch.setattr(layout, "_check_reachable", lambda directory: None)
    return tmp_path / "cluster"


def test_a_cluster_may_be_made_where_there_is_nothing_or_state_of_its_site(layout: ModuleType, folder: Path) -> None:
    layout.check_new(folder)
    assert folder.is_dir()
    (folder / "site" / "state").mkdir(parents=True)
    (folder / "site" / "state" / "ssh-breaker.json").write_text("{}")
    layout.check_new(folder)


@pytest.mark.parametrize("name", ["etc", "site"])
def test_a_cluster_is_not_made_among_files_of_others(layout: ModuleType, folder: Path, name: str) -> None:
    folder.mkdir()
    (folder / name).write_text("a file, not the state of a site")
    with pytest.raises(layout.ClusterError, match="holds no cluster"):
        layout.check_new(folder)


def ports(layout: ModuleType, sshd: int) -> dict[str, int]:
    return dict.fromkeys(layout.LISTENERS, 20001) | {"sshd": sshd}


def test_a_cluster_in_the_usual_folder_needs_nothing_but_a_port_or_user_that_had_to_be_others(layout: ModuleType) -> None:
    usual = layout.Layout(Path(layout.DEFAULT_DIR), ports(layout, layout.DEFAULT_SSH_PORT), layout.DEFAULT_USER)
    assert layout.site_needs(usual) == {}
    other = layout.Layout(Path(layout.DEFAULT_DIR), ports(layout, 20023), "ccatwm-1")
    assert layout.site_needs(other) == {
        "CCAT_WORKFLOW_MANAGER_SSH__PORT": "20023", "CCAT_WORKFLOW_MANAGER_SSH__USER": "ccatwm-1",
    }  # fmt: skip


def test_a_cluster_elsewhere_needs_its_places_too(layout: ModuleType) -> None:
    needed = layout.site_needs(layout.Layout(Path("/srv/c"), ports(layout, 20023), "ccatwm-1"))
    assert needed["CCAT_WORKFLOW_MANAGER_OPSDB_URL"] == "sqlite:////srv/c/site/opsdb.sqlite"
    assert needed["CCAT_WORKFLOW_MANAGER_SSH__KEY_FILE"] == "/srv/c/ssh/id_ed25519"
    assert needed["CCAT_WORKFLOW_MANAGER_PIPELINE_BASE_DIR"] == "/srv/c/scratch/pipelines"
    assert "CCAT_WORKFLOW_MANAGER_SSH__HOST" not in needed
