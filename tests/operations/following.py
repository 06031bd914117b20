"""Follows docs/operations.md from the first command to the last, and checks what each prints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.operations.page import ROOT
from tests.operations.terminals import Terminals


def prepare_home(home: Path) -> None:
    """Make the folders that the page expects: the clone in `~/offramp`, a new version in `~/new`."""
    home.mkdir(exist_ok=True)
    if not (home / "offramp").exists():
        (home / "offramp").symlink_to(ROOT)
    new = home / "new" / "fashion-mnist" / "3"
    shutil.copytree(ROOT / "models" / "fashion-mnist" / "2", new)
    manifest = json.loads((new / "manifest.json").read_text())
    (new / "manifest.json").write_text(json.dumps({**manifest, "version": 3}))


def follow_page(
    page: Terminals, seconds: float, *, has_prometheus: bool, before_prometheus: Callable[[], None]
) -> None:
    """Run every block of the page in order.

    seconds: longest time until a change or an alert is seen. before_prometheus: called when the files for
    monitoring are written and checked.
    """
    _install_and_serve(page)
    _watch(page, seconds, has_prometheus=has_prometheus, before_prometheus=before_prometheus)
    _change_versions_and_points(page, seconds)
    assert "ok fashion-mnist/3: 4 stages" in _last_of(page, "Back up", 2)
    _last_of(page, "Container", 1)
    _last_of(page, "Kubernetes", 1)
    _answer_symptoms(page)
    assert not page.is_left()


def _install_and_serve(page: Terminals) -> None:
    page.run_next("Install")
    output = page.run_next("Install")
    assert "ok fashion-mnist/2: 4 stages" in output
    assert "serves" in output
    page.run_next("Serve")
    output = page.run_next("Serve")
    assert output.startswith("serving\n")
    assert "of 3" in output
    page.run_next("Secure")
    page.run_next("Secure")
    assert "of 3" in page.run_next("Secure")


def _watch(
    page: Terminals, seconds: float, *, has_prometheus: bool, before_prometheus: Callable[[], None]
) -> None:
    assert "monitoring/rules.yaml" in page.run_next("Watch")
    before_prometheus()
    page.run_next("Watch")
    page.run_next("Watch")
    if has_prometheus:
        page.await_output("=> 1 @", seconds)
    page.stop_server()
    page.run_next("Test an alert")
    if has_prometheus:
        page.await_output('"alertname":"OfframpDown"', seconds)
        page.await_output('"state":"firing"', seconds)
    page.start_server()


def _change_versions_and_points(page: Terminals, seconds: float) -> None:
    page.run_next("Upgrade")
    page.run_next("Upgrade")
    page.await_output('version="3"', seconds)
    assert "rolled back to version 2" in page.run_next("Roll back")
    assert "version 3 serves again" in page.run_next("Roll back")
    page.run_next("Revoke and reinstate")
    page.reload()
    page.run_next("Revoke and reinstate")
    page.await_output("fast: revoked by the operator", seconds)
    page.run_next("Revoke and reinstate")


def _answer_symptoms(page: Terminals) -> None:
    assert page.run_next("At 3 a.m.") == "serving\n"
    assert "ok fashion-mnist/3" in page.run_next("At 3 a.m.")
    assert "version 2 serves" in page.run_next("At 3 a.m.")
    assert "balanced" in page.run_next("At 3 a.m.")
    page.run_next("At 3 a.m.")
    page.run_next("At 3 a.m.")
    assert page.run_next("At 3 a.m.").startswith("notAfter=")
    assert page.run_next("At 3 a.m.") == "operator infer,read\n"
    page.run_next("At 3 a.m.")


def _last_of(page: Terminals, section: str, blocks: int) -> str:
    """Run blocks of a section; return the output of the last one."""
    return [page.run_next(section) for _ in range(blocks)][-1]
