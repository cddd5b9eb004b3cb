"""The paths of the HTTP address, and who may ask for them.

    /metrics           everybody on this machine; elsewhere with the token of who may `count`
    /healthz, /readyz  everybody
    /page...           the page itself, which holds no secret: everybody
    /page/data         who has a session, or shows a token
    /page/session      tells whether there is a session, begins one by a token or a link, ends it
    /page/link         makes a link; only for the owner of the files

Whoever comes by the Unix socket beside the database is the owner of the files, and may see all. The
site answers one request a connection, so that a limit of time can be put on each.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pwserver.config import host_in_url
from workers.http.access import Access
from workers.http.health import Health
from workers.http.history import History
from workers.http.metrics import Metrics

COOKIE = "pwserver"
_BODY_BYTES_MAX = 4096
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FILES = {"page.css": "text/css", "page.js": "text/javascript"}

_HEADERS = {
    "cache-control": "no-store",
    "connection": "close",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Site:
    """What is served. `url` is where, for people."""

    url: str
    access: Access
    health: Health
    history: History
    metrics: Metrics

    def for_owner(self) -> "App":
        """Return the site as the owner of the files sees it."""
        link = Route("/page/link", self._link, methods=["POST"])
        return App(Starlette(routes=[link, *_Views(self, is_owner=True).routes()]), hosts=None)

    def for_network(self) -> "App":
        """Return the site as it is at its address."""
        local = {"127.0.0.1", "localhost", "[::1]"} if self.is_open else None
        return App(Starlette(routes=_Views(self, is_owner=False).routes()), hosts=local)

    @property
    def is_open(self) -> bool:
        """Whether only this machine can reach the address, so that metrics need no token."""
        return self.url.startswith("http:")

    async def _link(self, request: Request) -> Response:
        return JSONResponse({"link": f"{self.url}page#{self.access.new_link()}"})


class App:
    """The ASGI application: it sets the headers, and refuses names that are not this machine's.

    A page of another site could have its own name lead to 127.0.0.1, and read what is open there.
    A browser always says a name. HTTP/1.0 has none, which the checks of balancers speak.
    """

    def __init__(self, app: Starlette, hosts: set[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._hosts is not None and host and name.lower() not in self._hosts:
            refusal = PlainTextResponse("This is not the name of this machine.\n", 421)
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


class _Views:
    """The site for the owner of the files, or for the others."""

    def __init__(self, site: Site, *, is_owner: bool) -> None:
        self._site = site
        self._is_owner = is_owner

    def routes(self) -> list[Route]:
        """Return the paths, each with what answers there."""
        return [
            Route("/", lambda _: RedirectResponse("/page", 303)),
            Route("/metrics", self.metrics),
            Route("/healthz", self.health),
            Route("/readyz", self.ready),
            Route("/page", self.page),
            Route("/page/data", self.data),
            Route("/page/session", self.session, methods=["GET"]),
            Route("/page/session", self.begin_session, methods=["POST"]),
            Route("/page/session", self.end_session, methods=["DELETE"]),
            Route("/page/{name}", self.file),
        ]

    async def metrics(self, request: Request) -> Response:
        if not (self._is_owner or self._site.is_open or await self._shows_token(request)):
            headers = {"www-authenticate": "Bearer"}
            return PlainTextResponse("This needs a token that may count.\n", 401, headers)
        return Response(self._site.metrics.text(), headers={"content-type": _METRICS_TYPE})

    async def health(self, request: Request) -> Response:
        silent = self._site.health.silent()
        if silent:
            return PlainTextResponse(f"These do not answer: {', '.join(silent)}.\n", 503)
        return PlainTextResponse("All processes answer.\n")

    async def ready(self, request: Request) -> Response:
        if reason := await self._site.health.why_not_ready():
            return PlainTextResponse(f"Nothing can be saved. {reason}\n", 503)
        return PlainTextResponse("Changes are saved.\n")

    async def page(self, request: Request) -> Response:
        return _file("page.html", "text/html")

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _FILES:
            return PlainTextResponse("There is nothing here.\n", 404)
        return _file(name, _FILES[name])

    async def data(self, request: Request) -> Response:
        if not await self._may_look(request):
            return PlainTextResponse("This needs a session.\n", 401)
        after = request.query_params.get("after", "0")
        after_ms = int(after) if after.isdecimal() and len(after) < 16 else 0
        return JSONResponse(self._site.history.told(after_ms))

    async def session(self, request: Request) -> Response:
        return JSONResponse({"session": await self._may_look(request)})

    async def begin_session(self, request: Request) -> Response:
        access = self._site.access
        shown = await _body(request)
        cookie: str | None = None
        if link := shown.get("link"):
            cookie = access.by_link(link)
        elif token := shown.get("token"):
            try:
                allowed = await access.may_count(token, _address(request))
            except OSError:
                return PlainTextResponse("The service does not answer now.\n", 503)
            cookie = access.by_token(token) if allowed else None
        if cookie is None:
            return PlainTextResponse("This is not accepted.\n", 403)
        response = Response(status_code=204)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, cookie, httponly=True, secure=secure, samesite="strict")
        return response

    async def end_session(self, request: Request) -> Response:
        self._site.access.end_session(request.cookies.get(COOKIE, ""))
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    async def _may_look(self, request: Request) -> bool:
        if self._is_owner:
            return True
        cookie = request.cookies.get(COOKIE)
        if not cookie:
            return await self._shows_token(request)
        try:
            return await self._site.access.may_look(cookie, lambda: _address(request))
        except OSError:
            return False

    async def _shows_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        try:
            return await self._site.access.may_count(token.strip(), _address(request))
        except OSError:
            return False


def _address(request: Request) -> str:
    """Return the client's address and port, as the service writes it."""
    if request.client is None:
        return "unknown:0"
    return f"{host_in_url(request.client.host)}:{request.client.port}"


def _file(name: str, kind: str) -> Response:
    content = resources.files("workers.http").joinpath(name).read_bytes()
    return Response(content, headers={"content-type": f"{kind}; charset=utf-8"})


async def _body(request: Request) -> dict[str, str]:
    """Return the texts of a small JSON object; nothing if it is something else."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_BYTES_MAX:
                return {}
        shown = json.loads(body)
    except (ValueError, RecursionError, ClientDisconnect):
        return {}
    if not isinstance(shown, dict):
        return {}
    return {name: text for name, text in shown.items() if isinstance(text, str)}
