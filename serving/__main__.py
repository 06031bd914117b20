"""Runs `python -m serving`: the server, or one of the operator's commands."""

from serving.console.command_parser import module_program
from serving.console.extras import requires_extra

if __name__ == "__main__":
    with requires_extra(module_program(__spec__), "serving"):
        from serving.commands.program import run_program
    run_program()
