"""The server of the control API: its paths and its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web

from flambed.access import Caller, Rules
from flambed.control import answers, openapi, requests, unixsocket
from flambed.control.answers import Emit
from flambed.control.gate import Gate
from flambed.control.requests import Query, UnreadableError
from flambed.control.service import Service

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEARTBEAT: Final = 15.0  # seconds between signs of life on a quiet stream
BACKLOG: Final = 4096  # who knocks while all others are served; the kernel's limit is net.core.somaxconn
LEAVE_SECONDS: Final = 1.0  # for those that were let in just before the service stops to ask, and be answered
STOP_SECONDS: Final = 10.0  # for requests under way when the service stops


class Control:
    """The server of the API.

    Args:
        service: what it serves.
        rules: who may take all clusters down at once; may be replaced at any time.
        emit: logs `control.*` events.
        heartbeat: seconds between signs of life on a quiet stream.
    """

    def __init__(self, service: Service, *, rules: Rules, emit: Emit, heartbeat: float = HEARTBEAT) -> None:
        self._service = service
        self.rules = rules
        self._emit = emit
        self._heartbeat = heartbeat
        self._closing = asyncio.Event()
        self._changes: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        self._bound: tuple[Path, int] | None = None
        self._listening: asyncio.Server | None = None
        self._gate = Gate(lambda uid, count: emit("control.crowded", uid=uid, connections=count))
        self._openapi = openapi.document()

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return everything that is served: method, path, handler."""
        cluster = "/v1/clusters/{ref}"
        return [
            ("GET", "/v1/clusters", self._list),
            ("DELETE", "/v1/clusters", self._down_all),
            ("GET", cluster, self._status),
            ("PUT", cluster, self._up),
            ("DELETE", cluster, self._down),
            ("POST", f"{cluster}/hold", self._hold),
            ("POST", f"{cluster}/release", self._release),
            ("POST", f"{cluster}/retry", self._retry),
            ("POST", f"{cluster}/trust", self._trust),
            ("GET", f"{cluster}/logs", self._logs),
            ("GET", f"{cluster}/why", self._why),
            ("GET", f"{cluster}/ssh", self._ssh),
            ("GET", "/v1/events", self._events),
            ("GET", "/v1/instances", self._instances),
            ("GET", "/v1/orphans", self._orphans),
            ("POST", "/v1/orphans/remove", self._remove_orphans),
            ("GET", "/v1/doctor", self._doctor),
            ("GET", "/v1/health", self._health),
            ("GET", "/v1/openapi.json", self._describe),
            ("GET", "/metrics", self._metrics),
        ]

    # --- its life ------------------------------------------------------------------------------------------------

    async def start(self, where: Path | int) -> None:
        """Open a socket at a path, or take over an inherited one by its file descriptor, and serve.

        Raises:
            SocketError: it cannot be opened.
        """
        if isinstance(where, int):
            server = unixsocket.inherited(where)
        else:
            server = unixsocket.listen(where)
            self._bound = (where, unixsocket.inode(where))
        app = web.Application(client_max_size=requests.MOST_BYTES, middlewares=[answers.error_answers(self._emit)])
        for method, path, handler in self.routes():
            # By default a part of a path may hold no braces.
            app.router.add_route(method, path.replace("{ref}", "{ref:[^/]+}"), handler)
        app.on_shutdown.append(self._end_streams)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=30.0,
            logger=answers.http_logger(),
            max_line_size=65_536,  # overrides come in the query
            max_field_size=32_768,  # the private key comes in a header
            shutdown_timeout=STOP_SECONDS,
        )
        await self._runner.setup()
        handlers = self._runner.server
        assert handlers is not None, "it is set up"
        # `create_unix_server` would remove the file of an inherited socket at its end, from Python 3.13 on.
        self._listening = await asyncio.get_running_loop().create_server(
            lambda: self._gate.protocol(handlers()), sock=server, backlog=BACKLOG
        )
        self._emit("control.listening", path=str(server.getsockname()))

    async def close(self) -> None:
        """Let nobody in any more, end the streams, finish what was accepted, and remove the socket, unless it was inherited."""
        if self._runner is not None:
            if self._listening is not None:
                await self._leave(self._listening)
            await self._runner.cleanup()
            self._runner = None
        if self._changes:
            await asyncio.wait(self._changes)
        if self._bound is not None:
            unixsocket.remove(*self._bound)
            self._bound = None

    async def _leave(self, listening: asyncio.Server) -> None:
        """Accept nobody, and wait for those that were accepted: whoever connects to an inherited socket now is the next one's.

        The HTTP library would hang up on a connection whose request it has not read yet.
        """
        for socket in listening.sockets:
            asyncio.get_running_loop().remove_reader(socket.fileno())
        await asyncio.sleep(0)  # who was just accepted comes to the gate
        self._closing.set()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._gate.empty()
        except TimeoutError:  # they say nothing, or go on asking
            pass
        listening.close()

    async def _end_streams(self, _app: web.Application) -> None:
        self._closing.set()

    # --- requests to see something -------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        return answers.document(self._service.clusters())

    async def _status(self, request: web.Request) -> web.StreamResponse:
        query = Query(request, "follow")
        ref = request.match_info["ref"]
        status = self._service.status(ref)
        if query.flag("follow"):
            return await self._stream(request, self._service.follow(ref))
        return answers.document(status)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        host = Query(request, "host").text("host")
        return answers.document(self._service.logs(await requests.caller(request), request.match_info["ref"], host))

    async def _why(self, request: web.Request) -> web.StreamResponse:
        host = Query(request, "host").text("host")
        found = await self._service.why(await requests.caller(request), request.match_info["ref"], host)
        return answers.document(found)

    async def _ssh(self, request: web.Request) -> web.StreamResponse:
        host = Query(request, "host").text("host")
        return answers.document(self._service.ssh(await requests.caller(request), request.match_info["ref"], host))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        query = Query(request, "cluster", "since", "follow")
        since = query.text("since")
        events = self._service.events(
            await requests.caller(request),
            ref=query.text("cluster"),
            since=requests.moment(since) if since is not None else None,
            follow=query.flag("follow"),
        )
        return await self._stream(request, events)

    async def _instances(self, request: web.Request) -> web.StreamResponse:
        query = Query(request, "creator", "host")
        caller = await requests.caller(request)
        found = await self._service.instances(caller, creator=query.text("creator"), host=query.text("host"))
        return answers.document(found)

    async def _orphans(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        return answers.document(await self._service.orphans(await requests.caller(request)))

    async def _doctor(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        return answers.document(await self._service.doctor(await requests.caller(request)))

    async def _health(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        health = self._service.health()
        return answers.document(health, status=200 if health["ok"] else 503)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        return web.Response(body=self._service.metrics(), headers={"Content-Type": openapi.METRICS})

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        return answers.document(self._openapi)

    # --- requests to change something ----------------------------------------------------------------------------

    async def _up(self, request: web.Request) -> web.StreamResponse:
        query = Query(request, "plan", "shrink", "set")
        ref, overrides, shrink = request.match_info["ref"], query.all("set"), query.flag("shrink")
        key = requests.private_key(request)
        document = await requests.cluster_file(request)
        caller = await requests.caller(request)
        if query.flag("plan"):
            return answers.document(
                await self._service.plan(caller, document, ref=ref, overrides=overrides, shrink=shrink)
            )
        change = self._service.up(caller, document, ref=ref, overrides=overrides, key=key, shrink=shrink)
        return answers.document(await self._carry_out(change), status=202)

    async def _down(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        caller = await requests.caller(request)
        return answers.document(
            await self._carry_out(self._service.down(caller, request.match_info["ref"])), status=202
        )

    async def _down_all(self, request: web.Request) -> web.StreamResponse:
        if not Query(request, "all").flag("all"):
            raise UnreadableError("which cluster? DELETE /v1/clusters/NAME for one, /v1/clusters?all=1 for all of them")
        caller = await requests.caller(request)
        self.rules.check_admin(caller, "take all clusters down")
        return answers.document(await self._carry_out(self._take_all_down(caller)), status=202)

    async def _take_all_down(self, caller: Caller) -> list[dict[str, Any]]:
        live = [cluster for cluster in self._service.clusters() if cluster["phase"] != "gone"]
        return [await self._service.down(caller, f"{cluster['creator']}/{cluster['name']}") for cluster in live]

    async def _hold(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        body = await requests.json_object(request, required=("for", "why"))
        seconds, why = requests.duration(body, "for"), requests.words(body, "why")
        change = self._service.hold(await requests.caller(request), request.match_info["ref"], seconds=seconds, why=why)
        return answers.document(await self._carry_out(change))

    async def _release(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        await requests.json_object(request)
        return answers.document(
            await self._carry_out(self._service.release(await requests.caller(request), request.match_info["ref"]))
        )

    async def _retry(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        body = await requests.json_object(request, optional=("host",))
        host = requests.words(body, "host") if body.get("host") is not None else None
        change = self._service.retry(await requests.caller(request), request.match_info["ref"], host)
        return answers.document(await self._carry_out(change), status=202)

    async def _trust(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        body = await requests.json_object(request, required=("host",), optional=("fingerprint",))
        host = requests.words(body, "host")
        wanted = requests.fingerprint(body, "fingerprint") if body.get("fingerprint") is not None else None
        change = self._service.trust(await requests.caller(request), request.match_info["ref"], host, wanted)
        return answers.document(await self._carry_out(change))

    async def _remove_orphans(self, request: web.Request) -> web.StreamResponse:
        Query(request)
        ids = requests.texts(await requests.json_object(request, required=("ids",)), "ids")
        return await self._stream(request, self._service.remove_orphans(await requests.caller(request), ids))

    async def _stream(self, request: web.Request, items: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
        return await answers.stream(request, items, heartbeat=self._heartbeat, closing=self._closing)

    async def _carry_out(self, change: Coroutine[Any, Any, T]) -> T:
        """Return what a change returns, and let it end even if the client goes away."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)
