"""Runs a recipe's rows on a Ray cluster: a worker with a kernel of its own on each node or GPU, rows in blocks.

Rows are read and outcomes are taken here, where the command runs; workers only compute. It is built on Ray's actors and
not on Ray Data, whose fixed pool of actors hung when a node was lost and one processor was left. A worker opens the
recipe at the same path as here, so the nodes share a file system or have copies; one that is not the same is refused.
Invariant: each row leads to exactly one outcome, whatever dies meanwhile: the rows of a lost worker go to another one,
and what a lost worker answers later is not heard.
"""

from __future__ import annotations

import ipaddress
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill import GristmillError, Kernel, UsageError
from gristmill_plugins.evaluation._inputs import InputMap
from gristmill_plugins.evaluation._rows import Row
from gristmill_plugins.evaluation._runner import AHEAD, Effort, Outcome, RowFailure, run_rows, told

if TYPE_CHECKING:
    from gristmill import RunnableRecipe

IN_HAND = 2
"""Blocks that a worker has at once, so that its engine's batch stays full while one is answered."""
MOST_LOSSES = 4
"""A block whose workers died so often is what kills them."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where to run: `address` as Ray's ("auto", "127.0.0.1:6379"); `workers` by default one a GPU, or one a node."""

    address: str = "auto"
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a worker needs to know, sent to it once."""

    recipe: str
    digest: str
    overrides: Mapping[str, str]
    plugin_files: tuple[str, ...]
    caches: bool
    folder: str
    inputs: InputMap
    effort: Effort


@dataclass(slots=True)
class _Block:
    """Rows that are sent together. `losses` counts the workers that were lost with them."""

    number: int
    rows: list[Row]
    losses: int = 0


def run_rows_on_cluster(
    recipe: RunnableRecipe, rows: Iterator[Row], inputs: InputMap, effort: Effort, cluster: Cluster,
    take: Callable[[Outcome], None], *, in_order: bool = False,
) -> None:  # fmt: skip
    """Run the recipe on every row and hand each outcome to `take`, as blocks end or in the order of the rows.

    Raises:
        UsageError: Ray is not installed, no cluster is there, it is exposed, or a node has not the same recipe.
        GristmillError: no row could succeed, or one block of rows ends every worker.
    """
    plan = _Plan(
        recipe=str(recipe.recipe.path), digest=recipe.recipe.digest, overrides=recipe.overrides,
        plugin_files=tuple(map(str, recipe.kernel.plugin_files)), caches=recipe.kernel.cache is not None,
        folder=str(Path.cwd()), inputs=inputs, effort=replace(effort, cluster=None),
    )  # fmt: skip
    with _connected(cluster) as ray:
        _Pool(ray, plan, cluster, take, in_order=in_order).run(rows)


@contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray", hint='pip install "gristmill[ray]"') from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            hint = "start one with `ray start --head`, or say where it is: --ray-address HOST:PORT"
            raise UsageError(f"no Ray cluster at {cluster.address!r}: {error}", hint=hint) from error
    try:
        refuse_exposed(ray.get_runtime_context().gcs_address)
        yield ray
    finally:
        if ours:
            ray.shutdown()


def refuse_exposed(address: str) -> None:
    """Refuse a cluster that other machines can reach and that asks for no token: it runs whatever anybody sends.

    Raises:
        UsageError: it is such a one (CVE-2023-48022).
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local and os.environ.get("RAY_AUTH_MODE") != "token":
        raise UsageError(
            f"the Ray cluster at {address} can be reached from other machines and asks for no token",
            hint="start it, and this command, with RAY_AUTH_MODE=token and a token in RAY_AUTH_TOKEN",
        )


class _Worker:
    """Lives in a process on a node: a kernel, the recipe, and the models that it needs."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._opening = threading.Lock()
        self._recipe: RunnableRecipe | None = None

    def here(self) -> None:
        """Answer: the worker has its place."""

    def run(self, rows: list[Row]) -> list[Outcome] | RowFailure:
        """Return the outcomes of rows, or why no row can succeed."""
        outcomes: list[Outcome] = []
        try:
            run_rows(self._open(), iter(rows), self._plan.inputs, self._plan.effort, outcomes.append)
        except GristmillError as error:
            return told(error)
        return [_portable(outcome) for outcome in outcomes]

    def _open(self) -> RunnableRecipe:
        plan = self._plan
        with self._opening:
            if self._recipe is None:
                if not Path(plan.folder).is_dir():
                    raise UsageError(f"the folder {plan.folder} is not on this node", hint="share it with the nodes")
                os.chdir(plan.folder)
                kernel = Kernel(plugin_files=plan.plugin_files, cache=plan.caches)
                recipe = kernel.recipe(Path(plan.recipe), overrides=plan.overrides)
                if recipe.recipe.digest != plan.digest:
                    raise UsageError(f"{plan.recipe} is another recipe on this node", hint="copy it anew, or share it")
                self._recipe = recipe
            return self._recipe


def _portable(outcome: Outcome) -> Outcome:
    """Return an outcome that can travel: without the trace, its error as what was told of it."""
    result = None if outcome.result is None else replace(outcome.result, trace=())
    return replace(outcome, result=result, error=None if outcome.error is None else told(outcome.error))


class _Pool:
    """Hands blocks of rows to workers and takes in what they answer."""

    def __init__(
        self, ray: Any, plan: _Plan, cluster: Cluster, take: Callable[[Outcome], None], *, in_order: bool
    ) -> None:
        self._ray = ray
        self._plan = plan
        self._take = take
        self._in_order = in_order
        self._actor = ray.remote(_Worker)
        self._n_gpus = int(ray.cluster_resources().get("GPU", 0))
        self._most = cluster.workers or self._n_gpus or sum(node["Alive"] for node in ray.nodes())
        self._hands: dict[Any, int] = {}
        """Each worker that has answered, and how many blocks it has."""
        self._hired: dict[Any, Any] = {}
        """Workers that have not yet answered: where no processor is free for one, that may be never."""
        self._flying: dict[Any, tuple[Any, _Block]] = {}
        self._again: deque[_Block] = deque()
        self._ended: dict[int, list[Outcome]] = {}
        self._next = 0
        self._more = True
        """Whether there may be rows that were not sent yet."""

    def run(self, rows: Iterator[Row]) -> None:
        """Run all rows; workers are ended when it returns or raises."""
        blocks = self._blocks(rows)
        try:
            while self._again or self._flying or self._more:
                self._hire()
                self._send(blocks)
                if not self._again and not self._flying and not self._more:
                    return  # there were no rows
                done, _ = self._ray.wait([*self._flying, *self._hired], num_returns=1)
                for reference in done:
                    self._settle(reference) if reference in self._flying else self._welcome(reference)
        finally:
            for worker in (*self._hands, *self._hired.values()):
                self._ray.kill(worker)

    def _blocks(self, rows: Iterator[Row]) -> Iterator[_Block]:
        number = 0
        while block := list(islice(rows, self._plan.effort.concurrency)):
            yield _Block(number, block)
            number += 1

    def _hire(self) -> None:
        options = {"num_cpus": 1, "max_concurrency": IN_HAND, "scheduling_strategy": "SPREAD"}
        for _ in range(self._most - len(self._hands) - len(self._hired)):
            worker = self._actor.options(**options, num_gpus=1 if self._n_gpus else 0).remote(self._plan)
            self._hired[worker.here.remote()] = worker

    def _welcome(self, reference: Any) -> None:
        worker = self._hired.pop(reference)
        with suppress(self._ray.exceptions.RayError):  # its node was lost before it began: another is hired
            self._ray.get(reference)
            self._hands[worker] = 0

    def _send(self, blocks: Iterator[_Block]) -> None:
        """Give every worker with a free hand a block, the idlest first."""
        while self._hands and (worker := min(self._hands, key=self._hands.__getitem__)):
            if self._hands[worker] == IN_HAND or (block := self._next_block(blocks)) is None:
                return
            self._hands[worker] += 1
            self._flying[worker.run.remote(block.rows)] = (worker, block)

    def _next_block(self, blocks: Iterator[_Block]) -> _Block | None:
        """Return what is to be sent next: rows that came back first, and none far ahead of the order."""
        if self._again:
            return self._again.popleft()
        if len(self._ended) >= AHEAD * self._most:
            return None
        block = next(blocks, None)
        self._more = block is not None
        return block

    def _settle(self, reference: Any) -> None:
        worker, block = self._flying.pop(reference)
        if worker in self._hands:
            self._hands[worker] -= 1
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            raise  # a mistake of ours, which another worker would make again
        except self._ray.exceptions.RayError as error:
            self._lose(worker, block, error)
            return
        if isinstance(answer, RowFailure):
            raise answer
        outcomes = [replace(outcome, attempts=outcome.attempts + block.losses) for outcome in answer]
        self._ended[block.number] = outcomes
        self._hand_on(block.number)

    def _lose(self, worker: Any, block: _Block, error: Exception) -> None:
        """Put the rows of a lost worker back; a new worker takes its place when they are sent again."""
        self._hands.pop(worker, None)
        block.losses += 1
        if block.losses > MOST_LOSSES:
            first, last = block.rows[0].number, block.rows[-1].number
            raise GristmillError(
                f"the rows {first} to {last} ended {block.losses} workers", hint="run them alone, without --engine ray"
            ) from error
        self._again.append(block)

    def _hand_on(self, number: int) -> None:
        if not self._in_order:
            for outcome in self._ended.pop(number):
                self._take(outcome)
            return
        while self._next in self._ended:
            for outcome in sorted(self._ended.pop(self._next), key=lambda outcome: outcome.row.number):
                self._take(outcome)
            self._next += 1
