"""Workers in a Ray cluster: an actor for each place, which works in one thread and talks in others.

Nothing is left to Ray's own recovery: no actor is restarted, no task tried again. The driver hears
that an actor is dead, and starts another one where there is room.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reskd.common.console import counted, say
from reskd.common.errors import StoppedShortError
from reskd.teacher_cache.fill.cluster import RayOptions
from reskd.teacher_cache.fill.workers.ray_places import (
    Node,
    RayPlace,
    device_kind,
    places_of,
)
from reskd.teacher_cache.fill.workers.site import Place
from reskd.teacher_cache.fill.workers.worker import (
    DriverGoneError,
    Question,
    WorkOrder,
    work,
)

Said = tuple[Question | Literal["dead"], Any]

_SECONDS_TO_LISTEN: Final = 1.0
_SECONDS_TO_END: Final = 60.0
"""For workers to commit the units that are being written."""
_SECONDS_TO_END_HEADLESS: Final = 10.0
_SECONDS_BETWEEN_LOOKS: Final = 2.0
"""At the nodes of the cluster."""
_SECONDS_WITHOUT_HEAD: Final = 25.0
"""Ray ends the processes of a cluster whose head is gone for 60 s, the driver's too."""
_SECONDS_OF_SILENCE: Final = 30.0
_SECONDS_WITHOUT_WORKERS: Final = 600.0
"""For new nodes to come, and for others to free theirs."""
_MOST_CHARACTERS: Final = 300


class WorkerActor:
    """A worker; and what carries its messages, which wait here to be fetched by the driver."""

    def __init__(self) -> None:
        self._said, self._answers = SimpleQueue[Said](), SimpleQueue[tuple[Any] | None]()
        self._driver_gone = False

    def work(self, order: WorkOrder, place: RayPlace) -> None:
        """All that it ever does."""
        threads = max(1, place.cpus)
        options = order.job.options.share_of(place.device, threads=threads, count=place.count)
        own = replace(
            order,
            job=replace(order.job, options=options),
            torch_threads=threads if place.device.type == "cpu" else None,
        )
        try:
            work(self, own)
        finally:
            self._said.put(("dead", None))

    def fetch(self) -> list[Said]:
        """What was said since the last time, after waiting for something."""
        said = [self._said.get()]
        with suppress(Empty):
            while True:
                said.append(self._said.get_nowait())
        return said

    def put_answer(self, content: object) -> None:
        """What the driver answers."""
        self._answers.put((content,))

    def let_go(self) -> None:
        """The driver has nothing to say any more."""
        self._driver_gone = True
        self._answers.put(None)

    def send(self, question: Question, content: object) -> None:
        """The worker says something."""
        if self._driver_gone:
            raise DriverGoneError
        self._said.put((question, content))

    def answer(self) -> Any:
        """The worker waits for an answer."""
        answer = self._answers.get()
        if answer is None:
            raise DriverGoneError
        return answer[0]


class RayHand:
    """An actor, as the driver holds it."""

    def __init__(
        self,
        actor: Any,
        end: Any,
        heard: SimpleQueue[tuple["RayHand", Future[Any]]],
        nodes: "_Nodes",
    ) -> None:
        self._actor, self._end, self._heard, self._nodes = actor, end, heard, nodes
        self._let_go_at = 0.0
        self.has_spoken = self.is_let_go = False
        self.listen()

    def listen(self) -> None:
        """Ask for what it will say next."""
        said: Future[list[Said]] = self._actor.fetch.remote().future()
        said.add_done_callback(lambda told: self._heard.put((self, told)))

    def answer(self, content: object) -> None:
        """Answer its question."""
        self._actor.put_answer.remote(content)

    def let_go(self) -> None:
        """Tell it that there is nothing more."""
        self.is_let_go, self._let_go_at = True, time.monotonic()
        self._actor.let_go.remote()

    def ended(self) -> str:
        """Wait for its end."""
        how = "ended"
        try:
            self._end.future().result(self._patience())
        except TimeoutError:
            how = "did not end"
        except RayError as error:
            how = f"was lost: {_first_of(error)}"
        if not self._nodes.are_headless:
            ray.kill(self._actor)
        return how

    def _patience(self) -> float:
        """Seconds that its end may still take."""
        if not self.has_spoken:  # it may still wait for its node, and has nothing to commit
            return 1.0
        seconds = _SECONDS_TO_END_HEADLESS if self._nodes.are_headless else _SECONDS_TO_END
        return max(0.1, self._let_go_at + seconds - time.monotonic())


class RaySite:
    """The nodes of the cluster this process is connected to."""

    def __init__(self, order: WorkOrder, options: RayOptions) -> None:
        self._nodes, self._threads = _Nodes(), options.threads
        self._kind = device_kind(self._nodes.now(), options)
        self._order = ray.put(order)
        self._hands: list[RayHand] = []
        self._heard = SimpleQueue[tuple[RayHand, Future[list[Said]]]]()
        self._waits_since: float | None = None
        self._waits_told = 0.0

    def places(self) -> list[RayPlace]:
        """Those of the nodes that are alive.

        Raises:
            StoppedShortError: If the head of the cluster is lost.
        """
        return places_of(self._nodes.now(), self._kind, self._threads)

    def start(self, place: Place) -> RayHand:
        """Start an actor as soon as its node has room."""
        assert isinstance(place, RayPlace)
        actor: Any = (
            ray.remote(WorkerActor)
            .options(
                num_cpus=place.cpus,
                num_gpus=1 if self._kind == "cuda" else 0,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=4,  # one that works, one that waits to be fetched, two that pass on
                scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
            )
            .remote()
        )
        hand = RayHand(actor, actor.work.remote(self._order, place), self._heard, self._nodes)
        self._hands.append(hand)
        return hand

    def hear(self) -> Iterator[tuple[RayHand, Question | Literal["dead"], Any]]:
        """Listen for a second."""
        try:
            hand, told = self._heard.get(timeout=_SECONDS_TO_LISTEN)
        except Empty:
            self._check_waiting()
            return
        try:
            said = told.result()
        except RayError:
            said = [("dead", None)]
            self._nodes.look()  # before it gets a successor: perhaps the node is dead too
        else:
            hand.has_spoken = True
        if ("dead", None) not in said:
            hand.listen()
        for question, content in said:
            if not hand.is_let_go:
                yield hand, question, content

    def _check_waiting(self) -> None:
        """Nobody says anything: a cluster may have no room, for now or for good."""
        self._hands = [hand for hand in self._hands if not hand.is_let_go]
        if any(hand.has_spoken for hand in self._hands):
            self._waits_since = None
            return
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since = self._waits_told = now
        elif now - self._waits_since > _SECONDS_WITHOUT_WORKERS:
            raise StoppedShortError(
                f"For {_SECONDS_WITHOUT_WORKERS / 60:.0f} minutes no worker could be started in "
                f"the Ray cluster: {self._room()}. Look at `ray status`, and run the same command "
                "again; finished units are kept."
            )
        elif now - self._waits_told > _SECONDS_OF_SILENCE:
            self._waits_told = now
            say(f"waiting for the Ray cluster: {self._room()}")

    def _room(self) -> str:
        return (
            f"{counted(len(self.places()), 'place')} for a worker on {self._kind}, "
            f"{counted(sum(bool(node['Alive']) for node in self._nodes.now()), 'node')}"
        )


class _Nodes:
    """The nodes of the cluster, as they were seconds ago.

    They are asked for in other threads: a head that is lost never answers.
    """

    def __init__(self) -> None:
        self._told = SimpleQueue[list[Node]]()
        self._waits = self.are_headless = False
        self.look()

    def look(self) -> None:
        """See them as they are.

        Raises:
            StoppedShortError: If the head does not answer.
        """
        try:
            if self._waits:  # for an answer to an older question
                self._told.get(timeout=_SECONDS_WITHOUT_HEAD)
            self._ask()
            self._latest = self._told.get(timeout=_SECONDS_WITHOUT_HEAD)
        except Empty:
            raise self._lost() from None
        self._waits = False

    def _ask(self) -> None:
        self._asked_at, self._waits = time.monotonic(), True
        threading.Thread(target=self._tell, daemon=True).start()

    def _tell(self) -> None:
        with suppress(RayError, OSError, RuntimeError):
            self._told.put(ray.nodes())  # type: ignore[no-untyped-call]

    def now(self) -> list[Node]:
        """What is known of them.

        Raises:
            StoppedShortError: If the head does not answer.
        """
        with suppress(Empty):
            self._latest = self._told.get_nowait()
            self._waits = False
        age = time.monotonic() - self._asked_at
        if self._waits and age > _SECONDS_WITHOUT_HEAD:
            raise self._lost()
        if not self._waits and age > _SECONDS_BETWEEN_LOOKS:
            self._ask()
        return self._latest

    def _lost(self) -> StoppedShortError:
        self.are_headless = True
        return StoppedShortError(
            f"The head of the Ray cluster has not answered for {_SECONDS_WITHOUT_HEAD:.0f} s. When "
            "it is there again, run the same command; finished units are kept."
        )


def _first_of(error: RayError) -> str:
    """What matters of a message that may take a page."""
    if isinstance(error, RayTaskError):
        return repr(error.cause)
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith(("\t", "  "))]
    return " ".join(lines)[:_MOST_CHARACTERS]
