"""READ FIRST of this folder. The life of the server's process: start, reload, stop.

In: a model to serve and a socket. Out: answers, until a signal comes; then generations in progress may end, within a
set time. The app is in app.py, who may ask in middleware.py; the routes are in openai.py and kiara.py; the engine's
thread is worker.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import uvicorn

from kiara_cli.config.schema import ServeConfig
from kiara_cli.core.serve.app import make_app
from kiara_cli.core.serve.served import Served
from kiara_cli.core.serve.worker import Worker
from kiara_cli.errors import KiaraError

log = logging.getLogger("kiara.serve")
UNREAD_MILLISECONDS = 60_000  # a client that reads nothing for so long is cut off
KEEP_ALIVE_SECONDS = 65
SWITCH = 0.001  # seconds for which one of two threads that both have work may keep the other from it

Load = Callable[[], Served]


def serve(worker: Worker, limits: ServeConfig, keys: Sequence[str], listener: socket.socket, load: Load) -> None:
    """Answer requests until SIGINT or SIGTERM; then finish what is being written, or end it when its time is over."""
    sys.setswitchinterval(SWITCH)
    worker.start()
    try:
        make_server(worker, limits, keys, load).run(sockets=[listener])
    finally:
        worker.stop()


def make_server(worker: Worker, limits: ServeConfig, keys: Sequence[str] = (), load: Load | None = None) -> Server:
    """Return the server, not running yet."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the guard logs what goes wrong
    config = uvicorn.Config(
        make_app(worker, limits, keys, partial(reloading, worker, load)),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        limit_concurrency=limits.connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(limits.shutdown_seconds) + 2,
    )
    return Server(config, worker, limits.shutdown_seconds)


class Server(uvicorn.Server):
    """uvicorn's, but a signal to stop is an end like any other, and jobs end before connections do."""

    def __init__(self, config: uvicorn.Config, worker: Worker, patience: float) -> None:
        super().__init__(config)
        self.worker, self.patience = worker, patience

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        stops = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self.handle_exit) for number in stops}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.worker.close()
        asyncio.get_running_loop().call_later(self.patience, self.worker.abandon)
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket to listen on. Raises KiaraError if it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KiaraError(
            f"cannot listen on {host}:{port}: {reason}", "choose another: --port 8001, or an address of this machine"
        ) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MILLISECONDS)
    return listener


@contextlib.contextmanager
def reloading(worker: Worker, load: Load | None) -> Iterator[None]:
    """Open the checkpoint again at each SIGHUP, while the old model goes on; a broken one changes nothing."""
    tasks: set[asyncio.Task[None]] = set()

    async def reload(load: Load) -> None:
        try:
            worker.swap(await asyncio.to_thread(load))
            log.info("serving %s, opened again", worker.served.name)
        except (KiaraError, OSError) as error:
            log.error("the checkpoint was not opened again, the old one stays: %s", error)
        except Exception:
            log.exception("the checkpoint was not opened again, the old one stays")

    if load is None or not hasattr(signal, "SIGHUP"):
        yield
        return
    loop = asyncio.get_running_loop()

    def start() -> None:
        task = loop.create_task(reload(load))
        tasks.add(task)  # or it might be collected before it is done
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, start)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
