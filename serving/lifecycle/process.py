"""The server as a whole process: settings, log and event loop."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable

from prometheus_client import disable_created_metrics

# Set before gRPC is imported: otherwise its core writes to stderr directly, not through the log writer.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from serving.config_sources import load_config
from serving.console.command_parser import USAGE_ERROR
from serving.console.standard_streams import ERROR_PREFIX
from serving.errors import ConfigurationError, RepositoryError
from serving.lifecycle.logs import configure_logs
from serving.lifecycle.server import Address, Server
from serving.lifecycle.training_service import TrainingOffer

LAST_LINES_SECONDS = 1.0
"""Longest time to write the last log lines, so that a pipe that nobody reads does not block the exit."""


def serve(options: argparse.Namespace) -> int:
    """Serve a model repository until a signal stops it. Only the log writer's thread writes to stderr."""
    writer = configure_logs(sys.stderr.fileno())
    try:
        return asyncio.run(_serve(options, lambda: writer.dropped))
    except (ConfigurationError, RepositoryError) as error:
        writer.error(f"{ERROR_PREFIX}{error}")
        return USAGE_ERROR
    finally:
        writer.close(LAST_LINES_SECONDS)


async def _serve(options: argparse.Namespace, dropped_log_lines: Callable[[], int]) -> int:
    # Otherwise each counter would have a second series with its creation time.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    server = Server(
        options.model_repository,
        Address(options.host, options.grpc_port, options.metrics_port),
        device=options.device,
        config=load_config(options.config),
        poll_seconds=options.poll_seconds,
        state_dir=options.state_dir,
        training=TrainingOffer(options.training_dir) if options.enable_training else None,
        insecure=options.insecure,
        dropped_log_lines=dropped_log_lines,
    )
    return await server.run()
