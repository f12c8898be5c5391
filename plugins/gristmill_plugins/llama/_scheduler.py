"""Continuous batching: which tokens of which sequences are decoded together in the next step.

It knows nothing of prompts, sampling or processes, and reaches the engine only through `Backend`. Invariants:
a branch's tokens before `n_past` are in the cache under its sequence, and no others; the logits of every token
from `wants_from` on are handed to its job once, in order; the oldest branch always makes progress.

A branch asks for nothing but its tokens. What other sequences already hold of them, running or kept from
earlier requests, is shared (`copy`) instead of computed; what finds no room is evicted, least recently used
first, and a running branch that is pushed out is decoded again later from its own tokens.

A branch with a guesser may be decoded several tokens ahead (speculative decoding, Leviathan et al. 2023, in its
greedy case). Its job never sees a guess: it gets the rows that follow tokens it wrote itself, and what was guessed
wrong is cut off again before the step ends.

It is longer than other modules because admission, batches and eviction change the same few lists.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gristmill_plugins.llama._batch import Batch, Counters
from gristmill_plugins.llama._branch import Adapters, Backend, Branch, Job, Shelf
from gristmill_plugins.llama._shelf import n_common
from gristmill_plugins.llama._stow import Stow, n_distinct

MIN_SHARED = 8
"""Prefixes shorter than this many tokens are computed again: cheaper than a sequence held for them."""
MIN_SHELVED = 256
"""Prefixes shorter than this many tokens are not kept on disk: reading them again takes under a second."""
DECODED, NO_ROOM = 0, 1
AT_HAND_TOKENS = 256
"""Of what is only kept, so many tokens stay in the cache; the rest is put aside: see `_stow`."""
STEPS_BY_TURNS = 4
"""Steps in a row for one set of adapters while others wait: after each change llama.cpp builds its graph anew."""
READ_TOGETHER = 4
"""So many long prompts are read by turns; the others wait unread: see `_to_read`."""
PATIENCE_STEPS = 32
"""A prompt that finds too many tokens at work waits so many steps at most."""
SHORT_TOKENS = 64
"""What is left of a prompt is read beside any others if it is no longer."""
SCRATCH = 0
"""The sequence of tokens whose results nobody wants."""


class Placed(enum.Enum):
    """Whether a waiting branch was admitted."""

    YES = "it runs"
    SOON = "another branch is computing its prefix"
    FULL = "there is no sequence or no room in the cache"


@dataclass(slots=True)
class _Kept:
    """The computed tokens of a closed branch, for later requests to begin with."""

    tokens: npt.NDArray[np.int32]
    adapters: Adapters
    n_own: int


class Scheduler:
    """Admits branches, composes batches, decodes them and hands out the logits."""

    def __init__(
        self,
        backend: Backend,
        *,
        max_running: int,
        prefill_share: int,
        reproducible: bool = False,
        shelf: Shelf | None = None,
        stow: Stow | None = None,
        at_hand_tokens: int = AT_HAND_TOKENS,
        most_guessing: int = 0,
        reads_apart: bool = False,
        wide_tokens: float = math.inf,
    ) -> None:
        self._backend = backend
        self._shelf = shelf
        self._stow = stow if backend.can_split else None
        self._at_hand_tokens = at_hand_tokens
        self._max_running = max_running
        self._prefill_share = prefill_share
        self._reproducible = reproducible
        self._most_guessing = most_guessing if backend.can_split else 0
        """Guesses are made while at most so many branches decode: in larger batches a wrong one costs as much as a
        right one saves."""
        self._reads_apart = reads_apart
        """Whether prompts are read in steps of their own, in between those of what decodes."""
        self._wide_tokens = wide_tokens
        """A long prompt is begun where it and what is at work have no more tokens of their own, or after a while."""
        self._has_read = False
        self._turn = 0
        """Counts the steps in which prompts were read."""
        self._n_refused = 0
        """Steps in a row in which the oldest unread prompt was not begun."""
        self._waiting: deque[Branch] = deque()
        self._running: list[Branch] = []
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._free = list(range(backend.n_seq_max - 1, 0, -1))
        self._set: Adapters | None = None
        self._n_since_set = 0
        self._paused = False
        """After a preemption nothing is admitted until a branch closes, or the two would take turns for ever."""
        self.counters = Counters()

    @property
    def idle(self) -> bool:
        """Whether no branch has a token to decode."""
        return not self._has_work() and not any(branch.is_wanted for branch in self._waiting)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def add(self, branches: Iterable[Branch]) -> None:
        """Queue new branches behind those that wait."""
        self._waiting.extend(branches)

    def drop(self, job: Job) -> None:
        """Take all branches of a job out, at once; what they computed may be kept."""
        self._waiting = deque(branch for branch in self._waiting if branch.job is not job)
        for branch in [branch for branch in self._running if branch.job is job]:
            self._release(branch)

    def forget_kept(self) -> None:
        """Give back every sequence kept for later requests."""
        while self._kept:
            self._evict()

    def step(self) -> None:
        """Admit what fits, decode one batch, and hand its logits to the jobs."""
        self._admit()
        batch = self._compose(may_guess=True)
        if batch is None:
            if self._running and not self.idle:
                self._push_out()  # All that run wait for others of their job, which find no place.
            return
        code = self._decode(batch)
        if code == NO_ROOM and batch.guesses:
            batch = self._compose(may_guess=False) or batch
            code = self._decode(batch)
        if code == NO_ROOM:
            self._make_room()
            return
        if code != DECODED:
            self._fail_all(batch, RuntimeError(f"llama.cpp could not decode a batch (code {code})"))
            return
        self._count(batch)
        for branch, size in batch.parts:
            branch.n_past += size
        self._deliver(batch)

    def _decode(self, batch: Batch) -> int:
        return self._backend.decode(batch.tokens, batch.positions, batch.seqs, batch.wants)

    # Admission

    def _admit(self) -> None:
        """Give waiting branches a sequence, oldest first, each with the longest prefix that is already there."""
        held: list[Branch] = []
        while self._waiting and self._may_admit():
            branch = self._waiting.popleft()
            if branch.closed:
                continue
            placed = self._place(branch) if branch.is_wanted else Placed.SOON
            if placed is not Placed.YES:
                held.append(branch)
            if placed is Placed.FULL:
                break  # Nobody overtakes: a long prompt would otherwise wait for ever behind short ones.
        self._waiting.extendleft(reversed(held))

    def _may_admit(self) -> bool:
        n_active = sum(branch.n_pending > 0 for branch in self._running)
        return n_active < self._max_running and not (self._paused and n_active)

    def _has_work(self) -> bool:
        return any(branch.n_pending for branch in self._running)

    def _place(self, branch: Branch) -> Placed:
        """Admit one branch if its prefix is not being computed right now and there is room."""
        source, n_common = self._find_prefix(branch)
        if isinstance(source, Branch) and source.n_past < n_common:
            return Placed.SOON
        if not self._has_room(len(branch.tokens) - n_common, spare=source if isinstance(source, int) else None):
            return Placed.FULL
        if n_stowed := self._load_stowed(branch, beyond=n_common + MIN_SHARED):
            n_common = n_stowed
        elif isinstance(source, int):
            self._take_over(branch, source, n_common)
        else:
            branch.seq = self._free.pop()
            if source is not None and source.seq is not None:
                self._backend.copy(source.seq, branch.seq, n_common)
            elif source is None:
                n_common = self._load_shelved(branch, branch.seq)
        branch.n_past = branch.n_shared = n_common
        self.counters.shared += n_common
        self._running.append(branch)
        return Placed.YES

    def _load_stowed(self, branch: Branch, *, beyond: int) -> int:
        """Give a branch a sequence with what was put aside, if that is more than the cache has; return how much."""
        if self._stow is None or not self._free:
            return 0
        most = min(branch.wants_from, len(branch.tokens) - 1)
        size = self._stow.load(self._free[-1], branch.tokens[:most], branch.adapters, beyond=beyond)
        if size:
            branch.seq = self._free.pop()
            self._backend.truncate(branch.seq, size)
        return size

    def _load_shelved(self, branch: Branch, seq: int) -> int:
        """Fill an empty sequence from disk, if a long beginning of the branch is there; return how much of it."""
        most = min(branch.wants_from, len(branch.tokens) - 1)
        if self._shelf is None or most < MIN_SHELVED or not self._backend.can_split:
            return 0
        size = min(most, self._shelf.load(seq, branch.tokens, branch.adapters, beyond=MIN_SHELVED))
        self._backend.truncate(seq, size)
        return size

    def _take_over(self, branch: Branch, source: int, n_common: int) -> None:
        """Begin with what is kept in sequence `source`: all of it moves, a part of it is copied."""
        kept = self._kept[source]
        if n_common >= kept.tokens.size or not self._free:
            del self._kept[source]
            branch.seq = source
            self._backend.truncate(source, n_common)
            return
        self._kept.move_to_end(source)
        branch.seq = self._free.pop()
        self._backend.copy(source, branch.seq, n_common)

    def _find_prefix(self, branch: Branch) -> tuple[Branch | int | None, int]:
        """Return who holds, or will soon hold, the longest usable beginning of a branch, and its length."""
        most = min(branch.wants_from, len(branch.tokens) - 1)
        wanted = np.asarray(branch.tokens[:most], np.int32)
        best: Branch | int | None = None
        length = MIN_SHARED - 1
        for seq, kept in self._kept.items():
            if kept.adapters == branch.adapters:
                common = n_common(wanted, kept.tokens)
                if common > length and (self._backend.can_split or common == kept.tokens.size):
                    best, length = seq, common
        for other in self._running:
            if other.adapters == branch.adapters and other.seq is not None:
                common = n_common(wanted, np.asarray(other.tokens[:most], np.int32))
                if common > length and (self._backend.can_split or common == other.n_past):
                    best, length = other, common
        return (best, length) if best is not None else (None, 0)

    def _has_room(self, n_new: int, *, spare: int | None) -> bool:
        """Make a sequence and `n_new` cells free by evicting what is only kept; False where that is not enough."""
        while not self._free and (victim := self._oldest_kept(spare)) is not None:
            self._put_aside(victim)
        if not self._free and spare is None:
            return False
        while self._n_used() + n_new > self._backend.n_ctx and (victim := self._oldest_kept(spare)) is not None:
            self._put_aside(victim)
        return not self._running or self._n_used() + n_new <= self._backend.n_ctx

    def _n_used(self) -> int:
        """Estimate the occupied cells; the engine's own answer, NO_ROOM, is what counts."""
        running = sum(len(branch.tokens) - branch.n_shared for branch in self._running)
        return running + sum(kept.n_own for kept in self._kept.values())

    def _oldest_kept(self, spare: int | None) -> int | None:
        return next((seq for seq in self._kept if seq != spare), None)

    def _thin_out(self) -> None:
        """Put the longest unused aside until few cells are only kept; the last one stays, however long."""
        while len(self._kept) > 1 and n_distinct(kept.tokens for kept in self._kept.values()) > self._at_hand_tokens:
            self._put_aside(next(iter(self._kept)))

    def _put_aside(self, seq: int) -> None:
        if self._stow is not None:
            self._stow.keep(seq, self._kept[seq].tokens, self._kept[seq].adapters)
        self._evict(seq)

    def _evict(self, seq: int | None = None) -> None:
        seq = next(iter(self._kept)) if seq is None else seq
        del self._kept[seq]
        self._backend.truncate(seq, 0)
        self._free.append(seq)

    # One step

    def _compose(self, *, may_guess: bool) -> Batch | None:
        """Return the next batch: every branch that decodes, a share for those that read their prompt, or either."""
        ready = [branch for branch in self._running if branch.n_pending]
        if not ready:
            return None
        adapters = self._next_adapters(ready)
        ready = [branch for branch in ready if branch.adapters == adapters]
        decoding = [branch for branch in ready if branch.n_pending == 1]
        reading = self._to_read(ready)
        is_hurried = any(branch.streams for branch in decoding)
        if self._reads_apart and decoding and reading:
            self._has_read = not self._has_read
            decoding, reading = ([], reading) if self._has_read else (decoding, [])
        self._turn += bool(reading)
        batch = Batch()
        room = self._backend.n_batch - int(self._reproducible)
        may_guess &= not reading and len(decoding) <= self._most_guessing
        share = (room - len(decoding)) // len(decoding) if may_guess else 0
        for branch in decoding[:room]:
            batch.add(branch, 1, self._guess(branch, share))
        room = min(room - len(batch.tokens), self._prefill_share if is_hurried else room)
        for branch in reading:
            if size := min(branch.n_pending, room):
                batch.add(branch, size)
                room -= size
        if self._reproducible:
            self._add_company(batch)
        if self._set != adapters:
            self._backend.set_adapters(adapters)
            self._set, self._n_since_set = adapters, 0
        self._n_since_set += 1
        return batch

    def _to_read(self, ready: Sequence[Branch]) -> list[Branch]:
        """Return the branches whose prompts are read next, in order: short ones, and a few long ones by turns.

        Attention goes over all cells that any row of a block of a batch may see: a batch with a little of many
        prompts took 2.5 times as long as one with as many tokens of few (252 tokens, SmolLM2 on two cores: of 21
        prompts of 200 tokens 1.75 s, of one 0.70 s). And cells that others hold have their price in every step.
        """
        reading = [branch for branch in ready if branch.n_pending > 1]
        short = [branch for branch in reading if branch.n_pending <= SHORT_TOKENS]
        begun = sum(len(branch.tokens) - branch.n_shared for branch in ready if branch.n_past > branch.n_shared)
        long: list[Branch] = []
        is_refused = False
        for branch in reading:
            if branch.n_pending <= SHORT_TOKENS or len(long) == READ_TOGETHER:
                continue
            n_new = 0 if branch.n_past > branch.n_shared else len(branch.tokens) - branch.n_shared
            if n_new and (is_refused or not self._may_begin(begun, n_new)):
                is_refused = True  # nor is a younger one, or those that fit would keep it waiting for ever
                continue
            long.append(branch)
            begun += n_new
        self._n_refused = self._n_refused + 1 if is_refused else 0
        first = self._turn // 2 % len(long) if long else 0
        long = [*long[first:], *long[:first]]
        return [*long, *short] if self._turn % 2 else [*short, *long]  # neither keeps the other waiting for ever

    def _may_begin(self, begun: int, n_new: int) -> bool:
        """Tell whether a prompt of so many tokens is begun beside those at work; one that is too long alone may be."""
        fits = begun + n_new <= self._wide_tokens
        return not begun or fits or n_new > self._wide_tokens or self._n_refused >= PATIENCE_STEPS

    def _guess(self, branch: Branch, room: int) -> list[int]:
        """Return tokens that may follow a branch's last one."""
        if branch.guesser is None or room <= 0:
            return []
        return branch.guesser.guess(branch.tokens, room)

    def _add_company(self, batch: Batch) -> None:
        """Put a scratch token beside a lone one: llama.cpp multiplies one row with another kernel than several."""
        if len(batch.tokens) > 1 and len(batch.outputs) != 1:
            return
        self._backend.truncate(SCRATCH, 0)
        batch.tokens.append(batch.tokens[0])
        batch.positions.append(0)
        batch.seqs.append(SCRATCH)
        batch.wants.append(True)

    def _next_adapters(self, ready: Sequence[Branch]) -> Adapters:
        """Return the adapters whose turn it is: a few steps for each, in the order in which its oldest branch came."""
        groups = list(dict.fromkeys(branch.adapters for branch in ready))
        if self._set in groups and len(groups) > 1:
            if self._n_since_set < STEPS_BY_TURNS:
                return self._set
            return groups[(groups.index(self._set) + 1) % len(groups)]
        return groups[0]

    def _deliver(self, batch: Batch) -> None:
        """Hand each wanted row to its job and take in what the jobs ask for next."""
        rows = self._backend.logits(len(batch.outputs)) if batch.outputs else np.empty((0, 0), np.float32)
        new: list[Branch] = []
        for (branch, at, token), row in zip(batch.outputs, rows, strict=True):
            if not branch.closed and at < len(branch.tokens) and branch.tokens[at] == token:
                new += self._consume(branch, at, row, new)
        for branch, guess in batch.guesses.items():
            self._settle(branch, guess)
        self._waiting.extendleft(reversed(new))
        if new:
            self._admit()  # Now, while the branches they split from are certain to be there.
        for branch in [branch for branch in self._running if branch.closed]:
            self._release(branch)

    def _settle(self, branch: Branch, guess: list[int]) -> None:
        """Keep as much of a guess as the job wrote, and cut off the rest."""
        written = branch.tokens[branch.n_past : branch.n_past + len(guess)]
        n_right = n_common(np.asarray(guess, np.int32), np.asarray(written, np.int32))
        branch.n_past += n_right
        if branch.seq is not None and n_right < len(guess):
            self._backend.truncate(branch.seq, branch.n_past)
        self.counters.decoded += n_right
        self.counters.guessed += len(guess)
        self.counters.guessed_right += n_right
        if branch.guesser is not None:
            branch.guesser.learn(len(branch.tokens), len(guess), n_right)

    def _consume(self, branch: Branch, at: int, row: npt.NDArray[np.float32], new: Iterable[Branch]) -> list[Branch]:
        """Hand out one row; where the job fails on it, close all its branches."""
        try:
            return list(branch.job.consume(branch, at, row))
        except Exception as error:  # noqa: BLE001 - one request's fault must not end the others in the batch
            for own in (*self._running, *self._waiting, *new):
                own.closed |= own.job is branch.job
            branch.job.fail(error)
            return []

    def _count(self, batch: Batch) -> None:
        self.counters.steps += 1
        self.counters.decoded += len(batch.tokens) - sum(map(len, batch.guesses.values()))
        self.counters.largest_batch = max(self.counters.largest_batch, len(batch.parts))

    # Making room, and letting go

    def _make_room(self) -> None:
        """The engine found no cells: evict what is only kept, then push out a branch."""
        if self._kept:
            self._evict()
        elif len(self._running) > 1:
            self._push_out()
        else:
            branch = self._running[0]
            self.drop(branch.job)
            branch.job.fail(RuntimeError("the sequence does not fit the key-value cache"))

    def _push_out(self) -> None:
        """Take the place of a branch that waits for its job, or else of the youngest; it is decoded again later."""
        resting = [branch for branch in self._running if not branch.n_pending]
        branch = (resting or self._running)[-1]
        self._paused |= not resting
        self._running.remove(branch)
        self._give_back(branch)
        branch.wants_from = max(branch.wants_from, branch.n_past)
        branch.n_past = 0
        self._waiting.appendleft(branch)
        self.counters.preempted += 1

    def _release(self, branch: Branch) -> None:
        """Let go of a running branch; its tokens may serve later requests."""
        branch.closed = True
        self._paused = False
        self._running.remove(branch)
        if branch.keep and branch.seq is not None and branch.n_past >= MIN_SHARED:
            tokens = np.asarray(branch.tokens[: branch.n_past], np.int32)
            # Worth a file only where most of it was new: questions behind one long prefix make one file.
            if self._shelf is not None and branch.n_past >= MIN_SHELVED and 2 * branch.n_shared < branch.n_past:
                self._shelf.keep(branch.seq, branch.tokens[: branch.n_past], branch.adapters)
            self._kept[branch.seq] = _Kept(tokens, branch.adapters, branch.n_past - branch.n_shared)
            branch.seq = None
            if self._stow is not None:
                self._thin_out()
            return
        self._give_back(branch)

    def _give_back(self, branch: Branch) -> None:
        if branch.seq is not None:
            self._backend.truncate(branch.seq, 0)
            self._free.append(branch.seq)
            branch.seq = None

    def _fail_all(self, batch: Batch, error: Exception) -> None:
        for job in {id(branch.job): branch.job for branch, _ in batch.parts}.values():
            self.drop(job)
            job.fail(error)
        self.forget_kept()
