"""The Dockerfile: how it is read, and that its commands run here. `make container-check` builds the image."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.container.requirements import requirements
from tests.deploy.command import OFFRAMP, with_values
from tests.deploy.dockerfile import (
    Instruction,
    all_instructions,
    health_command,
    last,
    read_dockerfile,
)
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model

ROOT = Path(__file__).resolve().parents[2]
STAGES = read_dockerfile((ROOT / "Dockerfile").read_text())
TARGETS = ("serving-cpu", "serving")


def test_lines_are_joined_and_comments_left_out() -> None:
    text = (
        "FROM image AS first\n# a comment\n"
        "RUN --mount=type=bind,from=a,source=/b,target=/c \\\n    one && two\n"
    )

    (run,) = read_dockerfile(text)["first"].instructions

    assert run == Instruction("RUN", "one && two", ("--mount=type=bind,from=a,source=/b,target=/c",))
    assert list(run.mounts) == [{"type": "bind", "from": "a", "source": "/b", "target": "/c"}]


def test_a_stage_inherits_the_instructions_of_its_base() -> None:
    stages = read_dockerfile('FROM image AS first\nUSER 1:1\nFROM first AS second\nCMD ["a", "b c"]\n')

    instructions = all_instructions(stages, "second")

    assert [instruction.name for instruction in instructions] == ["USER", "CMD"]
    assert last(instructions, "CMD").words == ["a", "b c"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_a_numbered_user(target: str) -> None:
    final = all_instructions(STAGES, target)[-1]

    assert (final.name, final.arguments) == ("USER", "10001:10001")


def test_the_build_context_holds_what_is_copied() -> None:
    context = (ROOT / ".dockerignore").read_text().splitlines()
    copies = [item for stage in STAGES.values() for item in stage.instructions if item.name == "COPY"]

    copied = {source for copy in copies for source in copy.words[:-1]}

    assert {f"!{source}" for source in copied} == {line for line in context if line.startswith("!")}
    assert context[1] == "*"


@pytest.mark.parametrize("target", TARGETS)
def test_the_entry_point_serves_and_the_health_check_passes(target: str, tmp_path: Path) -> None:
    instructions = all_instructions(STAGES, target)
    (tmp_path / "state").mkdir()
    scripted_model.publish(tmp_path / "models")
    command, *arguments = last(instructions, "ENTRYPOINT").words
    health, *health_arguments = health_command(instructions)
    values = {"--model-repository": str(tmp_path / "models"), "--state-dir": str(tmp_path / "state")}

    assert command == health == "offramp"
    with ServerProcess(
        tmp_path / "models",
        *with_values(arguments[1:], values),
        program=(*OFFRAMP, arguments[0]),
        trials=True,
    ) as server:
        port = server.address.rpartition(":")[2]
        health_run = subprocess.run(
            [sys.executable, *OFFRAMP, *with_values(health_arguments, {"--address": f"127.0.0.1:{port}"})],
            capture_output=True,
            text=True,
        )
        code, _ = server.stop()

    assert (health_run.returncode, health_run.stdout) == (0, "serving\n")
    assert code == 0


def test_the_requirements_of_an_extra_replace_the_projects_own_extras() -> None:
    project = {
        "name": "offramp",
        "optional-dependencies": {
            "server": ["uvicorn>=0.40"],
            "native": ["pygrpc-native"],
            "all": ["offramp[server, native]", "onnxruntime>=1.23"],
        },
    }

    assert list(requirements(project, "all")) == ["uvicorn>=0.40", "pygrpc-native", "onnxruntime>=1.23"]
