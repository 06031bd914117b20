"""Follows docs/operations.md from the first command to the last, and checks what each prints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.offramp.serving_installation import RELEASED, RELEASED_VERSION
from tests.operations.page import ROOT
from tests.operations.terminals import Terminals

NEW_VERSION = RELEASED_VERSION + 1


def prepare_home(home: Path) -> None:
    """Make the folders that the page expects: the clone in `~/offramp`, a new version in `~/new`."""
    home.mkdir(exist_ok=True)
    if not (home / "offramp").exists():
        (home / "offramp").symlink_to(ROOT)
    new = home / "new" / "fashion-mnist" / str(NEW_VERSION)
    shutil.copytree(RELEASED / "fashion-mnist" / str(RELEASED_VERSION), new)
    manifest = json.loads((new / "manifest.json").read_text())
    (new / "manifest.json").write_text(json.dumps({**manifest, "version": NEW_VERSION}))


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
    assert f"ok fashion-mnist/{NEW_VERSION}: 4 stages" in _last_of(page, "Back up", 2)
    _last_of(page, "Container", 1)
    _last_of(page, "Kubernetes", 1)
    _answer_symptoms(page)
    assert not page.is_left()


def _install_and_serve(page: Terminals) -> None:
    page.run_next("Install")
    output = page.run_next("Install")
    assert f"ok fashion-mnist/{RELEASED_VERSION}: 4 stages" in output
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
    page.await_output(f'version="{NEW_VERSION}"', seconds)
    assert f"rolled back to version {RELEASED_VERSION}" in page.run_next("Roll back")
    assert f"version {NEW_VERSION} serves again" in page.run_next("Roll back")
    page.run_next("Revoke and reinstate")
    page.reload()
    page.run_next("Revoke and reinstate")
    page.await_output("fast: revoked by the operator", seconds)
    page.run_next("Revoke and reinstate")


def _answer_symptoms(page: Terminals) -> None:
    assert page.run_next("At 3 a.m.") == "serving\n"
    assert f"ok fashion-mnist/{NEW_VERSION}" in page.run_next("At 3 a.m.")
    assert f"version {RELEASED_VERSION} serves" in page.run_next("At 3 a.m.")
    assert "balanced" in page.run_next("At 3 a.m.")
    page.run_next("At 3 a.m.")
    page.run_next("At 3 a.m.")
    assert page.run_next("At 3 a.m.").startswith("notAfter=")
    assert page.run_next("At 3 a.m.") == "operator infer,read\n"
    page.run_next("At 3 a.m.")


def _last_of(page: Terminals, section: str, blocks: int) -> str:
    """Run blocks of a section; return the output of the last one."""
    return [page.run_next(section) for _ in range(blocks)][-1]
