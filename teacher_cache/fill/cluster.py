"""A Ray cluster: which one, and being connected to it."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from secrets import token_hex
from tempfile import TemporaryDirectory, gettempdir
from types import ModuleType
from typing import Final, Literal

from reskd.common.errors import DataError, LaunchError

_SECONDS_TO_REACH: Final = 10.0
_OBJECT_STORE_BYTES: Final = 256 * 2**20
"""Of a Ray of our own: it holds what all workers are told once, no rows."""
_MOST_CHARACTERS: Final = 24
"""Of the temporary folder's name: those of Ray's sockets are long, and end at 107."""
_ADVICE: Final = (
    "Name host:port of a head that this machine reaches (`ray start --head` prints it), or auto, "
    "the one that runs here. Without --ray-address it is RAY_ADDRESS, which `ray job submit` sets, "
    "else a Ray on this machine that ends with the command."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RayOptions:
    """On which cluster stage one runs, and how."""

    address: str | None = None
    """host:port of its head, or auto for one of this machine. None: RAY_ADDRESS, else our own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Of its nodes; auto is CUDA where one has it."""
    threads: int | None = None
    """CPUs of a worker. None: those of its node, divided by the node's GPUs."""


def ray_options(address: str | None, device: str, threads: int | None) -> RayOptions:
    """How a run of these options uses a cluster.

    Raises:
        DataError: If the device is not one that each node may have.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise DataError(
            f"--device {device}: with --engine ray it is auto, cuda or cpu; Ray numbers the GPUs."
        )
    return RayOptions(address=address, device=device, threads=threads)  # type: ignore[arg-type]


@contextmanager
def reached(options: RayOptions | None) -> Iterator[None]:
    """Be connected to a cluster inside the block; without options there is none.

    What Ray prints goes to stderr, where it does not mix with results.

    Raises:
        DataError: If Ray is not installed.
        LaunchError: If no cluster answers, or it does not take this program in.
    """
    if options is None:
        yield
        return
    try:
        import ray
    except ImportError as error:
        raise DataError(
            f"--engine ray needs the package ray, which cannot be imported ({error}). Install the "
            "extra `ray`: pip install 'reskd[ray]'. --devices runs on several devices of this "
            "machine without it, --slice on several machines."
        ) from error
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        if not ray.is_initialized():  # a program that calls us may have done that
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            with _own_signals():
                _connect(ray, options.address or os.environ.get("RAY_ADDRESS"), stack)
            stack.callback(ray.shutdown)
        yield


def _connect(ray: ModuleType, address: str | None, stack: ExitStack) -> None:
    if address not in (None, "auto"):
        _check_answers(address)  # Ray itself tries for minutes, and then ends the process
    try:
        if address is None:
            _start_own(ray, stack)
        else:
            ray.init(address=address, logging_level="warning")
    except (OSError, RuntimeError, ValueError) as error:
        raise LaunchError(f"Ray at {address or 'this machine'}: {error}. {_ADVICE}") from error


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16) or "/" in address:
        raise LaunchError(f"{address!r} is no address of a Ray head. {_ADVICE}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_REACH).close()
    except OSError as error:
        raise LaunchError(f"No Ray head answers at {address} ({error}). {_ADVICE}") from error


def _start_own(ray: ModuleType, stack: ExitStack) -> None:
    """On this machine, with all its files in a folder that goes with it."""
    short = len(gettempdir()) <= _MOST_CHARACTERS
    folder = stack.enter_context(
        TemporaryDirectory(prefix="ray-", dir=None if short else "/tmp", ignore_cleanup_errors=True)
    )
    if "RAY_AUTH_TOKEN" not in os.environ:  # else Ray makes a lasting one in the user's home
        os.environ["RAY_AUTH_TOKEN"] = token_hex(32)
        stack.callback(os.environ.pop, "RAY_AUTH_TOKEN", None)
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        logging_level="error",
        _temp_dir=os.environ.get("RAY_TMPDIR", folder),
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own in place of ours."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
