"""The HTTP application: `/metrics`, `/livez`, `/readyz`, and `/`, the page for people.

Any other path is 404, any method except GET and HEAD 405. The page needs no other host: its style and script
are inline, and the Content-Security-Policy allows nothing else.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import RestrictedRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from serving.http import words
from serving.http.status import StatusSource
from serving.metrics.instruments import Metrics

_LOG = structlog.get_logger(__name__)


def make_application(source: StatusSource, metrics: Metrics) -> Starlette:
    """Return the application of a server. metrics: the instruments in the source's registry."""
    registry = _ScrapedRegistry(source.registry, metrics)
    page = _Page()

    async def scrape(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        names = request.query_params.getlist("name[]")
        chosen = registry.restricted_registry(names) if names else registry
        return Response(encode(chosen), media_type=content_type)

    async def live(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(_: Request) -> Response:
        state = source.state()
        return PlainTextResponse(f"{state}\n", 200 if state == "ready" else 503)

    async def show(_: Request) -> Response:
        return page.render(source)

    async def failed(_: Request, error: Exception) -> Response:
        _LOG.error("HTTP request failed", exc_info=error)
        return PlainTextResponse("internal error\n", 500)

    routes = [Route("/metrics", scrape), Route("/livez", live), Route("/readyz", ready), Route("/", show)]
    application = Starlette(routes=routes, exception_handlers={Exception: failed})
    application.router.redirect_slashes = False  # `/metrics/` is another path: 404
    return application


@dataclass(frozen=True)
class _ScrapedRegistry:
    """A registry that removes the series of unloaded versions after they were scraped."""

    registry: CollectorRegistry
    metrics: Metrics

    def collect(self) -> Iterable[Metric]:
        unloaded = self.metrics.unloaded()
        yield from self.registry.collect()
        self.metrics.remove(unloaded)

    def restricted_registry(self, names: Iterable[str]) -> RestrictedRegistry:
        return self.registry.restricted_registry(names)


class _Page:
    """The page's template, and the policy that allows its inline style and script."""

    def __init__(self) -> None:
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(words=words)
        self._template = environment.get_template("page.html")
        source = environment.loader.get_source(environment, "page.html")[0] if environment.loader else ""
        style, script = (
            _hash(re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)[0]) for tag in ("style", "script")
        )
        self._headers = {
            "Content-Security-Policy": f"default-src 'none'; style-src {style}; script-src {script}; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }

    def render(self, source: StatusSource) -> Response:
        """Render the current status."""
        return HTMLResponse(self._template.render(status=source.read()), headers=self._headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
