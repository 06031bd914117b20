"""The documentation names every setting, metric, error, command and file, and stays short."""

import inspect
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import cast

import pytest
import torch
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from torch import nn

from offramp.__main__ import CLIENT, JOBS, SERVER
from offramp.__main__ import TRAINING as TRAINING_PROGRAM
from serving import errors
from serving.config import (
    EngineSettings,
    LogSettings,
    ModelSettings,
    MonitorSettings,
    SecuritySettings,
    ServerSettings,
    TracingSettings,
    TrainingSettings,
    TrialSettings,
)
from serving.exits.policy import ExitReason
from serving.metrics.instruments import Metrics
from serving.metrics.model_metrics import Outcome
from serving.repository import manifest
from training.architectures.head_settings import HeadSettings
from training.architectures.heads import Features, make_head
from training.architectures.network import MultiExitNetwork, NetworkOptions
from training.architectures.registry import ARCHITECTURES, Architecture
from training.born_again.rules import RULES
from training.data.registry import DATASETS
from training.exits.goals import OperatingPointSection
from training.recipe.recipe import Recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SERVING = (ROOT / "docs" / "serving.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()
ATTACH = (ROOT / "docs" / "attach.md").read_text()
RECIPES = (ROOT / "docs" / "recipes.md").read_text()
FORMAT = (ROOT / "models" / "README.md").read_text()


def test_every_setting_is_in_the_serving_page_with_its_default() -> None:
    sections: dict[str, type[BaseModel]] = {
        "server": ServerSettings,
        "engine": EngineSettings,
        "monitor": MonitorSettings,
        "trial": TrialSettings,
        "training": TrainingSettings,
        "security": SecuritySettings,
        "log": LogSettings,
        "tracing": TracingSettings,
    }
    for section, settings in sections.items():
        for name, field in settings.model_fields.items():
            row = re.search(rf"\| `{section}\.{name}` \| ([^|]*) \|", SERVING)
            assert row, f"{section}.{name} is missing"
            if field.default is not None:
                assert row[1] == str(field.default).lower() or row[1] == f"{field.default:g}"
    for name in ModelSettings.model_fields:
        assert f"`models.<name>.{name}`" in SERVING


def test_every_metric_is_in_the_serving_page() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"`{name}`" in SERVING


def test_every_outcome_and_exit_reason_is_in_the_serving_page() -> None:
    for outcome in Outcome:
        assert re.search(rf"\b{outcome}\b", SERVING)
    for reason in ExitReason:
        assert f"{reason.value} {reason.name.lower()}" in SERVING


def test_every_error_is_in_the_serving_page_and_in_its_tree() -> None:
    tree = errors.__doc__ or ""
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        assert name in tree
        if kind is not errors.OfframpError:
            assert f"`{name}`" in SERVING


def test_every_key_of_the_manifest_is_in_its_format() -> None:
    sections = [
        kind
        for _, kind in inspect.getmembers(manifest, inspect.isclass)
        if issubclass(kind, manifest.ManifestSection) and kind is not manifest.ManifestSection
    ]
    assert manifest.Manifest in sections
    for section in sections:
        for key in section.model_fields:
            assert re.search(rf"\b{key}\b", FORMAT), f"{section.__name__}.{key} is missing"


def test_every_make_command_of_the_readme_is_a_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), f"make {command} is no target"


def test_the_architecture_that_contributing_shows_can_be_built() -> None:
    shown = (ROOT / "CONTRIBUTING.md").read_text().split("```python")[1].split("```")[0]
    names = {
        "nn": nn,
        "Features": Features,
        "make_head": make_head,
        "MultiExitNetwork": MultiExitNetwork,
    }
    exec(shown, names)  # noqa: S102 - our own page
    plain = cast(Architecture, names["plain"])
    network = plain(
        nn.Identity(),
        NetworkOptions(
            image_shape=(3, 16, 16), classes=5, width=(4,), depth=(1, 1, 1), heads=[HeadSettings()] * 3
        ),
    )
    assert network(torch.zeros(2, 3, 16, 16)).shape == (3, 2, 5)


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_every_place_in_the_file_tree_exists(page: str) -> None:
    tree = (ROOT / page).read_text().split("## Where things are")[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        names = re.split(r"\s{2,}", line.strip())[0]
        if not line.startswith("  "):
            folder = ROOT / names
            assert folder.is_dir(), f"{names} does not exist"
        for name in names.split():
            place = folder / name if line.startswith("  ") else folder
            assert place.exists(), f"{place.relative_to(ROOT)} does not exist"


PAGES_WITH_COMMANDS = "\n".join((README, SERVING, TRAINING, ATTACH))
SHOWN_COMMANDS = sorted(set(re.findall(r"^offramp (.*)$", PAGES_WITH_COMMANDS, re.MULTILINE)))


@pytest.mark.parametrize("shown", SHOWN_COMMANDS)
def test_every_flag_of_the_pages_is_known(shown: str) -> None:
    words = shown.split()
    is_job_command = words[0] == "jobs" and words[1:] and words[1] in JOBS.commands
    help_text = subprocess.run(
        [sys.executable, "-m", "offramp", *words[: 2 if is_job_command else 1], "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    for flag in re.findall(r"--[a-z-]+", shown):
        assert flag in help_text, f"{flag} is unknown"


def test_the_pages_show_every_command_and_no_other() -> None:
    shown = set(re.findall(r"(?:^|`)offramp ([a-z]+)", PAGES_WITH_COMMANDS, re.MULTILINE))
    shown_of_jobs = set(re.findall(r"(?:^|`)offramp jobs ([a-z]+)", PAGES_WITH_COMMANDS, re.MULTILINE))

    assert shown == {name for program in (SERVER, CLIENT, TRAINING_PROGRAM) for name in program.commands}
    assert shown_of_jobs == set(JOBS.commands) - {"list"}


def test_every_recipe_setting_is_in_the_page_of_recipes_with_its_default() -> None:
    defaults = {name: field.default for name, field in OperatingPointSection.model_fields.items()}
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys = section.model_fields.items()
            defaults |= {f"{name}.{key}": inner.default for key, inner in keys}
        else:
            defaults[name] = field.default
    for key, default in defaults.items():
        row = re.search(rf"^\| `{re.escape(key)}` \| ([^|]*) \| [^|]+ \|$", RECIPES, re.MULTILINE)
        assert row, f"{key} is missing"
        if default != "" and isinstance(default, (bool, str, int, float)):
            assert row[1] == str(default).lower(), key


@pytest.mark.parametrize(
    "names", [RULES, DATASETS, ARCHITECTURES], ids=["rules", "datasets", "architectures"]
)
def test_every_rule_dataset_and_architecture_is_in_the_training_page(names: Collection[str]) -> None:
    for name in names:
        assert f"`{name}`" in TRAINING


PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "models/README.md", "models/fashion-mnist/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """Return what a link to a heading of a page may name, as GitHub makes it."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "lab-notes.md"],  # its files are those of its dates
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_source_file_that_a_page_names_exists(page: Path) -> None:
    for name in re.findall(r"`([a-z_-]+/[a-z_/-]+\.(?:py|toml|proto))`", page.read_text()):
        assert (ROOT / name).exists() or (ROOT / "serving" / name).exists(), f"{name}: no such file"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1500


UNBOUNDED = {"lab-notes.md"}


@pytest.mark.parametrize(
    "page",
    [*(page for page in PAGES if page.name not in UNBOUNDED), ROOT / "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_a_page_has_at_most_2500_words_of_prose(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert sum(len(line.split()) for line in prose) <= 2500
