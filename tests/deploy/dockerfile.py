"""Reads the Dockerfile: its stages, and the instructions of each.

It supports only the syntax that this project's Dockerfile uses, without variables and heredocs.
"""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instruction:
    """One instruction, without its flags such as `--mount`."""

    name: str
    arguments: str
    flags: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The arguments as words, from JSON or separated as by a shell."""
        if self.arguments.startswith("["):
            return [str(word) for word in json.loads(self.arguments)]
        return shlex.split(self.arguments)

    @property
    def mounts(self) -> Iterator[dict[str, str]]:
        """The options of each `--mount` flag, by name."""
        for flag in self.flags:
            name, _, value = flag.partition("=")
            if name == "--mount":
                yield dict(option.split("=", 1) for option in value.split(","))


@dataclass(frozen=True)
class Stage:
    """A stage: its base, which is an image or another stage, and its instructions."""

    base: str
    instructions: list[Instruction] = field(default_factory=list)


def read_dockerfile(text: str) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name, in their order."""
    stages: dict[str, Stage] = {}
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            base, _, name = instruction.words
            stages[name] = stage = Stage(base)
        else:
            stage.instructions.append(instruction)
    return stages


def all_instructions(stages: dict[str, Stage], target: str) -> list[Instruction]:
    """Return the instructions of a stage after those of the stages that it is based on."""
    stage = stages[target]
    inherited = all_instructions(stages, stage.base) if stage.base in stages else []
    return [*inherited, *stage.instructions]


def last(instructions: Sequence[Instruction], name: str) -> Instruction:
    """Return the last instruction with a name, which is the one in effect."""
    return [instruction for instruction in instructions if instruction.name == name][-1]


def health_command(instructions: Sequence[Instruction]) -> list[str]:
    """Return the command of HEALTHCHECK."""
    _, _, command = last(instructions, "HEALTHCHECK").arguments.partition("CMD ")
    return Instruction("CMD", command).words


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    for line in joined.splitlines():
        name, rest = line.split(maxsplit=1)
        flags = []
        while rest.startswith("--"):
            flag, rest = rest.split(maxsplit=1)
            flags.append(flag)
        yield Instruction(name, rest, tuple(flags))
