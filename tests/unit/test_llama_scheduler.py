"""Batches are composed fairly, prefixes are shared, and no fault of one request reaches another."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill_plugins.llama._branch import Adapters, Branch, adapters_key
from gristmill_plugins.llama._lookup import PromptLookup
from gristmill_plugins.llama._scheduler import STEPS_BY_TURNS, Scheduler
from gristmill_plugins.llama._stow import Stow, n_distinct

N_VOCAB = 16


class FakeBackend:
    """Keeps every sequence's tokens, as the engine does its cells; the next token is the sum so far, modulo 16."""

    def __init__(self, *, n_ctx: int = 512, n_batch: int = 32, n_seq_max: int = 9, can_split: bool = True) -> None:
        self.n_ctx, self.n_batch, self.n_seq_max, self.can_split = n_ctx, n_batch, n_seq_max, can_split
        self.cells: dict[int, list[tuple[int, int]]] = {}
        self.batches: list[list[int]] = []
        self.fail_with = 0
        self._ids = 0
        self._rows: list[int] = []
        self.adapters: Adapters = ()
        self.seen_adapters: list[Adapters] = []

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], seqs: Sequence[int], wants: Sequence[bool]
    ) -> int:
        assert 0 < len(tokens) <= self.n_batch
        if self.fail_with:
            return self.fail_with
        used = {cell for cells in self.cells.values() for cell, _ in cells}
        if len(used) + len(tokens) > self.n_ctx:
            return 1
        self._rows = []
        for token, position, seq, wanted in zip(tokens, positions, seqs, wants, strict=True):
            cells = self.cells.setdefault(seq, [])
            assert position == len(cells), "positions follow one another"
            self._ids += 1
            cells.append((self._ids, token))
            if wanted:
                self._rows.append(sum(token for _, token in cells) % N_VOCAB)
        self.batches.append(list(seqs))
        self.seen_adapters.append(self.adapters)
        return 0

    def logits(self, n_rows: int) -> Any:
        rows = np.zeros((len(self._rows), N_VOCAB), np.float32)
        for row, best in zip(rows, self._rows, strict=True):
            row[best] = 1
        return rows[:n_rows]

    def copy(self, source: int, target: int, size: int) -> None:
        assert not self.cells.get(target), "a copy goes into an empty sequence"
        self.cells[target] = self.cells[source][:size]

    def truncate(self, seq: int, size: int) -> bool:
        self.cells[seq] = self.cells.get(seq, [])[:size]
        return True

    def set_adapters(self, adapters: Adapters) -> None:
        self.adapters = adapters

    def save(self, seq: int) -> bytes:
        return bytes(token for _, token in self.cells[seq])

    def restore(self, seq: int, cells: bytes) -> bool:
        assert not self.cells.get(seq), "cells come back into an empty sequence"
        used = {cell for held in self.cells.values() for cell, _ in held}
        if len(used) + len(cells) > self.n_ctx:
            return False
        self.cells[seq] = [(self._ids + place, token) for place, token in enumerate(cells, 1)]
        self._ids += len(cells)
        return True


class Greedy:
    """Writes `n` tokens after its prompt, for each of `n_samples` branches."""

    def __init__(self, prompt: list[int], n: int, *, n_samples: int = 1, adapters: Adapters = ()) -> None:
        self.prompt, self.n, self.n_samples, self.adapters = prompt, n, n_samples, adapters
        self.answers: list[list[int]] = []
        self.error: Exception | None = None
        self.fault: Exception | None = None
        self.delivered: list[tuple[int | None, int]] = []

    def start(self) -> list[Branch]:
        guesser = PromptLookup(limit=len(self.prompt) + self.n)
        wants_from = len(self.prompt) - 1
        return [Branch(self, list(self.prompt), wants_from, adapters=self.adapters, guesser=guesser)]

    def consume(self, branch: Branch, at: int, logits: Any) -> Iterable[Branch]:
        if self.fault:
            raise self.fault
        self.delivered.append((branch.mark, at))
        new = []
        if branch.mark is None:
            for mark in range(1, self.n_samples):
                own = Branch(self, list(self.prompt), len(self.prompt), adapters=self.adapters, keep=False, mark=mark)
                self._write(own, logits)
                new.append(own)
            branch.mark = 0
        self._write(branch, logits)
        return [own for own in new if not own.closed]

    def _write(self, branch: Branch, logits: Any) -> None:
        branch.tokens.append(int(logits.argmax()))
        if len(branch.tokens) - len(self.prompt) == self.n:
            branch.closed = True
            self.answers.append(branch.tokens[len(self.prompt) :])

    def fail(self, error: Exception) -> None:
        self.error = error


class InStep:
    """Writes `n` tokens to each of `width` branches, and no next one before all have got this one."""

    def __init__(self, prompt: list[int], n: int, *, width: int) -> None:
        self.prompt, self.n, self.width = prompt, n, width
        self.branches: list[Branch] = []
        self.rows: dict[int | None, int] = {}
        self.answers: list[list[int]] = []
        self.error: Exception | None = None

    def start(self) -> list[Branch]:
        self.branches = [Branch(self, [*self.prompt, mark], len(self.prompt), mark=mark) for mark in range(self.width)]
        return self.branches

    def consume(self, branch: Branch, at: int, logits: Any) -> Iterable[Branch]:
        assert at == len(branch.tokens) - 1
        self.rows[branch.mark] = int(logits.argmax())
        if len(self.rows) == self.width:
            for own in self.branches:
                own.tokens.append(self.rows[own.mark])
                own.closed = len(own.tokens) == len(self.prompt) + 1 + self.n
            self.rows.clear()
            self.answers = [own.tokens[len(self.prompt) + 1 :] for own in self.branches]
        return []

    def fail(self, error: Exception) -> None:
        self.error = error


def expected(prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(sum(tokens) % N_VOCAB)
    return tokens[len(prompt) :]


def make(backend: FakeBackend, **options: Any) -> Scheduler:
    return Scheduler(backend, **({"max_running": 8, "prefill_share": 8} | options))


def run(scheduler: Scheduler, *, most: int = 2000) -> int:
    for steps in range(most):
        if scheduler.idle:
            return steps
        scheduler.step()
    raise AssertionError("it does not end")


def test_requests_decode_together_and_answer_as_if_alone() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    jobs = [Greedy([i, 2, 3], 5) for i in range(4)]
    for job in jobs:
        scheduler.add(job.start())
    assert run(scheduler) == 5
    assert [job.answers for job in jobs] == [[expected(job.prompt, 5)] for job in jobs]


def test_samples_share_the_prompt() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    job = Greedy(list(range(16)) * 2, 3, n_samples=4)
    scheduler.add(job.start())
    run(scheduler)
    assert job.answers == [expected(job.prompt, 3)] * 4
    assert scheduler.counters.decoded == 32 + 4 * 2


def test_a_prefix_that_is_being_read_is_waited_for() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    prefix = [3] * 60
    jobs = [Greedy([*prefix, i], 2) for i in range(4)]
    for job in jobs:
        scheduler.add(job.start())
    run(scheduler)
    assert [job.answers[0] for job in jobs] == [expected(job.prompt, 2) for job in jobs]
    assert scheduler.counters.decoded <= 60 + 4 * 3


def test_a_later_request_begins_where_an_earlier_one_was_alike() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    first, second = Greedy([5] * 40, 3), Greedy([5] * 39 + [1, 2], 3)
    scheduler.add(first.start())
    run(scheduler)
    before = scheduler.counters.decoded
    scheduler.add(second.start())
    run(scheduler)
    assert scheduler.counters.decoded - before == 2 + 2
    assert second.answers == [expected(second.prompt, 3)]


def ask_in_turn(scheduler: Scheduler, *prompts: list[int]) -> list[int]:
    """Answer one prompt after another; return how many tokens were decoded for each."""
    decoded = []
    for prompt in prompts:
        job, before = Greedy(prompt, 2), scheduler.counters.decoded
        scheduler.add(job.start())
        run(scheduler)
        assert job.answers == [expected(prompt, 2)]
        decoded.append(scheduler.counters.decoded - before)
    return decoded


def test_what_is_only_kept_leaves_the_cache_and_comes_back_without_being_read_again() -> None:
    backend = FakeBackend()
    scheduler = make(backend, stow=Stow(backend, limit_bytes=1000), at_hand_tokens=100)
    one, two, three = ([number] * 90 for number in (1, 2, 3))
    assert ask_in_turn(scheduler, one, two, three) == [91, 91, 91]
    assert sum(map(len, backend.cells.values())) == 91
    assert ask_in_turn(scheduler, [*one, 7], [*two, 7], one) == [2, 2, 2]
    assert sum(map(len, backend.cells.values())) <= 100


def test_what_finds_no_place_in_memory_is_read_again() -> None:
    backend = FakeBackend()
    scheduler = make(backend, stow=Stow(backend, limit_bytes=100), at_hand_tokens=100)
    one, two, three = ([number] * 90 for number in (1, 2, 3))
    assert ask_in_turn(scheduler, one, two, three, two, one) == [91, 91, 91, 2, 91]


def test_beginnings_that_sequences_share_count_once() -> None:
    rows = [[1, 2, 3, 4], [1, 2, 5], [300, 1], [1, 2, 3, 4, 6]]
    assert n_distinct(np.asarray(row, np.int32) for row in rows) == 4 + 1 + 2 + 1
    assert n_distinct([]) == 0


def test_questions_behind_one_prefix_stay_at_hand() -> None:
    backend = FakeBackend()
    scheduler = make(backend, stow=Stow(backend, limit_bytes=1000), at_hand_tokens=100)
    prefix = [4] * 60
    ask_in_turn(scheduler, *([*prefix, number] for number in range(5)))
    assert sorted(len(cells) for cells in backend.cells.values() if cells) == [62] * 5


def test_prefixes_are_not_shared_between_adapters() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    keys = [adapters_key({"tone": 1.0}), adapters_key({"tone": 0.5}), ()]
    for key in keys:
        scheduler.add(Greedy([5] * 40, 1, adapters=key).start())
    run(scheduler)
    assert scheduler.counters.shared == 0
    assert set(backend.seen_adapters) == set(keys)


def test_a_scale_of_nothing_is_no_adapter() -> None:
    assert adapters_key({"a": 0.0}) == adapters_key({})
    assert adapters_key({"b": 1.0, "a": 2.0}) == adapters_key({"a": 2.0, "b": 1.0})


def test_groups_of_adapters_take_turns_of_a_few_steps() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    jobs = [Greedy([i, 1], 12, adapters=adapters_key({"x": float(i % 2)})) for i in range(4)]
    for job in jobs:
        scheduler.add(job.start())
    run(scheduler)
    assert all(job.answers == [expected(job.prompt, 12)] for job in jobs)
    turns = [len(list(steps)) for _, steps in itertools.groupby(backend.seen_adapters)]
    assert turns == [STEPS_BY_TURNS] * (2 * 12 // STEPS_BY_TURNS)


def test_a_group_without_work_does_not_keep_its_turn() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    short, long = (Greedy([i, 1], n, adapters=adapters_key({"x": float(i)})) for i, n in ((1, 1), (2, 6)))
    for job in (short, long):
        scheduler.add(job.start())
    run(scheduler)
    assert backend.seen_adapters == [short.adapters, *[long.adapters] * 6]


def test_a_long_prompt_does_not_stop_those_that_stream() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    short, long = Greedy([1, 2], 10), Greedy([7] * 100, 1)
    scheduler.add(short.start())
    scheduler.step()
    scheduler.add(long.start())
    run(scheduler)
    with_both = [batch for batch in backend.batches[1:] if len(set(batch)) == 2]
    assert len(with_both) == 9
    assert max(map(len, with_both)) == 9


def test_a_prompt_is_read_in_whole_batches_beside_what_nobody_streams() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    quiet = Greedy([1, 2], 20)
    (branch,) = quiet.start()
    branch.streams = False
    scheduler.add([branch])
    scheduler.step()
    reader = Greedy([1] * 100, 1)
    scheduler.add(reader.start())
    while not reader.answers:
        scheduler.step()
    assert [len(batch) for batch in backend.batches[1:4]] == [32, 32, 32]
    run(scheduler)
    assert quiet.answers == [expected([1, 2], 20)]


def test_a_short_prompt_is_read_beside_a_long_one() -> None:
    scheduler = make(FakeBackend(n_batch=8))
    long, short = Greedy([7] * 100, 1), Greedy([1, 2, 3], 1)
    scheduler.add([*long.start(), *short.start()])
    scheduler.step()
    assert short.answers
    assert not long.answers


def test_a_batch_holds_tokens_of_few_long_prompts() -> None:
    backend = FakeBackend(n_batch=256, n_ctx=4096)
    scheduler = make(backend)
    prompts = [Greedy([n + 1] * 200, 1) for n in range(8)]
    for prompt in prompts:
        scheduler.add(prompt.start())
    run(scheduler)
    for batch in backend.batches:
        assert len(set(batch)) <= 3
    assert all(prompt.answers == [expected(prompt.prompt, 1)] for prompt in prompts)


def test_short_prompts_are_read_all_at_once_before_long_ones() -> None:
    backend = FakeBackend(n_batch=256, n_ctx=4096)
    scheduler = make(backend)
    short, long = [Greedy([n + 1] * 9, 1) for n in range(6)], Greedy([7] * 200, 1)
    scheduler.add([*long.start(), *(branch for one in short for branch in one.start())])
    scheduler.step()
    assert all(one.answers for one in short)


@pytest.mark.parametrize("reads_apart", [False, True])
@pytest.mark.parametrize("n_before", [0, 1])
def test_a_long_prompt_is_read_however_many_short_ones_come(reads_apart: bool, n_before: int) -> None:
    scheduler = make(FakeBackend(n_batch=8, n_ctx=4096), reads_apart=reads_apart)
    scheduler.add(Greedy([1, 2], 2000).start())
    for _ in range(1 + n_before):
        scheduler.step()
    long = Greedy([7] * 200, 1)
    scheduler.add(long.start())
    for n in range(600):
        scheduler.add(Greedy([n % 7 + 1] * 8, 1).start())
        scheduler.step()
        if long.answers:
            break
    assert long.answers


@pytest.mark.parametrize("size", [450, 600])
def test_a_prompt_that_finds_no_cells_waits_a_while_and_not_for_ever(size: int) -> None:
    backend = FakeBackend(n_batch=256, n_ctx=4096)
    scheduler = make(backend, reads_apart=True, wide_tokens=500)
    scheduler.add(Greedy([1] * 100, 1000).start())
    for _ in range(40):
        scheduler.step()
    late = Greedy([7] * size, 1)
    scheduler.add(late.start())
    for n in range(300):
        scheduler.add(Greedy([n % 7 + 1] * 80, 5).start())
        scheduler.step()
        if late.answers:
            break
    assert late.answers


def test_where_it_pays_prompts_are_read_in_steps_of_their_own_between_those_of_answers() -> None:
    backend = FakeBackend(n_batch=128, n_ctx=4096)
    scheduler = make(backend, reads_apart=True)
    writer, readers = Greedy([1, 2], 100), [Greedy([n + 3] * 150, 2) for n in range(3)]
    scheduler.add(writer.start())
    scheduler.step()
    for reader in readers:
        scheduler.add(reader.start())
    run(scheduler)
    reads = [len(batch) > 4 for batch in backend.batches]
    first, last = reads.index(True, 1), len(reads) - reads[::-1].index(True)
    assert reads[first:last] == [True, False] * ((last - first) // 2) + [True]
    writer_seq = backend.batches[0][0]
    assert not any(is_read and writer_seq in batch for is_read, batch in zip(reads, backend.batches, strict=True))
    assert writer.answers == [expected([1, 2], 100)]


def test_a_prompt_is_begun_only_where_what_decodes_leaves_it_cells() -> None:
    backend = FakeBackend(n_batch=256, n_ctx=4096)
    scheduler = make(backend, reads_apart=True, wide_tokens=500)
    readers = [Greedy([n + 1] * 200, 30) for n in range(6)]
    for reader in readers:
        scheduler.add(reader.start())
    run(scheduler)
    assert max(len(batch) for batch in backend.batches if len(batch) == len(set(batch))) == 2
    assert all(reader.answers == [expected(reader.prompt, 30)] for reader in readers)


def test_nobody_overtakes_a_request_that_waits_for_room() -> None:
    scheduler = make(FakeBackend(n_ctx=64))
    order: list[str] = []

    class Noted(Greedy):
        def _write(self, branch: Branch, logits: Any) -> None:
            super()._write(branch, logits)
            if branch.closed:
                order.append(str(len(self.prompt)))

    scheduler.add(Noted([1] * 20, 10).start())
    scheduler.add(Noted([2] * 50, 2).start())
    scheduler.add(Noted([3] * 4, 2).start())
    run(scheduler)
    assert order[0] == "20"
    assert set(order) == {"20", "50", "4"}


def test_dropping_a_job_frees_it_at_once() -> None:
    scheduler = make(FakeBackend())
    endless, other = Greedy([1, 2, 3], 400), Greedy([4, 5], 3)
    scheduler.add([*endless.start(), *other.start()])
    scheduler.step()
    scheduler.drop(endless)
    run(scheduler)
    assert endless.answers == []
    assert other.answers == [expected([4, 5], 3)]


def test_a_fault_in_one_job_leaves_the_others() -> None:
    scheduler = make(FakeBackend())
    bad, good = Greedy([1, 2], 5), Greedy([3, 4], 5)
    bad.fault = ValueError("odd logits")
    scheduler.add([*bad.start(), *good.start()])
    run(scheduler)
    assert bad.error is bad.fault
    assert good.answers == [expected([3, 4], 5)]


def test_a_failed_batch_is_an_error_for_all_in_it_and_not_for_the_next() -> None:
    backend = FakeBackend()
    scheduler = make(backend)
    bad, good = Greedy([1, 2], 5), Greedy([3, 4], 5)
    scheduler.add(bad.start())
    backend.fail_with = -3
    run(scheduler)
    assert "code -3" in str(bad.error)
    backend.fail_with = 0
    scheduler.add(good.start())
    run(scheduler)
    assert good.answers == [expected([3, 4], 5)]


def test_what_does_not_fit_is_pushed_out_and_comes_back() -> None:
    backend = FakeBackend(n_ctx=64)
    scheduler = make(backend)
    jobs = [Greedy([i] * 6, 30) for i in range(1, 5)]
    for job in jobs:
        scheduler.add(job.start())
    run(scheduler)
    assert [job.answers for job in jobs] == [[expected(job.prompt, 30)] for job in jobs]
    assert scheduler.counters.preempted > 0


def test_a_sequence_larger_than_the_cache_fails_and_nothing_hangs() -> None:
    scheduler = make(FakeBackend(n_ctx=16))
    job = Greedy([1] * 8, 30)
    scheduler.add(job.start())
    run(scheduler)
    assert "does not fit" in str(job.error)


def test_recurrent_state_is_shared_only_whole() -> None:
    backend = FakeBackend(can_split=False)
    scheduler = make(backend)
    scheduler.add(Greedy([5] * 40, 3).start())
    run(scheduler)
    other = Greedy([5] * 30 + [1] * 5, 2)
    scheduler.add(other.start())
    run(scheduler)
    assert scheduler.counters.shared == 0
    assert other.answers == [expected(other.prompt, 2)]


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_the_reproducible_mode_never_decodes_a_lone_token(n_jobs: int) -> None:
    backend = FakeBackend()
    scheduler = make(backend, reproducible=True)
    jobs = [Greedy([i, 9], 4) for i in range(n_jobs)]
    for job in jobs:
        scheduler.add(job.start())
    run(scheduler)
    assert min(map(len, backend.batches)) > 1
    assert [job.answers for job in jobs] == [[expected(job.prompt, 4)] for job in jobs]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 2), min_size=1, max_size=30),
            st.integers(1, 30),
            st.integers(1, 5),
            st.integers(0, 2),
            st.integers(0, 6),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(3, 9),
    st.integers(64, 256),
    st.booleans(),
    st.sampled_from([0, 1, 4]),
    st.sampled_from([None, 0, 100, 10_000]),
)
def test_any_mix_of_requests_answers_as_if_each_were_alone(
    requests: list[tuple[list[int], int, int, int, int]],
    n_seq_max: int,
    n_ctx: int,
    reproducible: bool,
    most_guessing: int,
    stow_bytes: int | None,
) -> None:
    backend = FakeBackend(n_ctx=n_ctx, n_seq_max=n_seq_max, n_batch=16)
    stow = None if stow_bytes is None else Stow(backend, limit_bytes=stow_bytes, slack_tokens=1)
    scheduler = make(
        backend,
        max_running=4,
        reproducible=reproducible,
        most_guessing=most_guessing,
        stow=stow,
        at_hand_tokens=20,
    )
    jobs = []
    for head, n, n_samples, adapter, pause in requests:
        job = Greedy([1] * 10 + head, n, n_samples=n_samples, adapters=adapters_key({"x": float(adapter)}))
        jobs.append(job)
        scheduler.add(job.start())
        for _ in range(pause):
            scheduler.step()
    run(scheduler)
    for job in jobs:
        assert job.error is None
        assert job.answers == [expected(job.prompt, job.n)] * job.n_samples
        assert len(set(job.delivered)) == len(job.delivered), "no row is delivered twice"


@pytest.mark.parametrize(("max_running", "n_seq_max", "n_ctx"), [(2, 9, 512), (6, 3, 512), (6, 9, 40), (1, 2, 30)])
def test_branches_that_wait_for_one_another_never_block_themselves(
    max_running: int, n_seq_max: int, n_ctx: int
) -> None:
    scheduler = make(FakeBackend(n_seq_max=n_seq_max, n_ctx=n_ctx), max_running=max_running)
    jobs = [InStep([i, 1], 5, width=4) for i in range(3)]
    for job in jobs:
        scheduler.add(job.start())
    run(scheduler, most=20_000)
    for job in jobs:
        assert job.error is None
        assert job.answers == [expected([*job.prompt, mark], 5) for mark in range(4)]


def test_a_branch_that_waits_for_its_job_counts_as_no_work() -> None:
    scheduler = make(FakeBackend())

    class Held(Greedy):
        def consume(self, branch: Branch, at: int, logits: Any) -> Iterable[Branch]:
            return []

    scheduler.add(Held([1, 2, 3], 5).start())
    assert run(scheduler) == 1
    other = Greedy([4, 5], 3)
    scheduler.add(other.start())
    run(scheduler)
    assert other.answers == [expected([4, 5], 3)]


def test_guesses_save_steps_and_change_nothing() -> None:
    """Sums of sixteens repeat: 0, 0, 0, ... follows, and after the first few all of it is guessed."""
    backend, prompt = FakeBackend(n_ctx=200), [16, 0, 0, 0, 0]
    scheduler = make(backend, most_guessing=1)
    job = Greedy(prompt, 60)
    scheduler.add(job.start())
    assert run(scheduler) < 12
    assert job.answers == [expected(prompt, 60)]
    assert scheduler.counters.guessed_right == scheduler.counters.guessed > 45
    assert scheduler.counters.decoded == len(prompt) + 59


def test_beside_many_others_nothing_is_guessed() -> None:
    scheduler = make(FakeBackend(), most_guessing=2)
    jobs = [Greedy([16, 0, 0, 0, i], 10) for i in (0, 16, 32)]
    for job in jobs:
        scheduler.add(job.start())
    run(scheduler)
    assert scheduler.counters.guessed == 0


def test_where_a_guess_finds_no_room_the_token_itself_still_does() -> None:
    prompt = [16, 0, 0, 0, 0, 0, 0, 0]
    scheduler = make(FakeBackend(n_ctx=18), most_guessing=1)
    job = Greedy(prompt, 11)
    job_branches = job.start()
    job_branches[0].guesser = PromptLookup(limit=10_000)
    scheduler.add(job_branches)
    run(scheduler)
    assert job.error is None
    assert job.answers == [expected(prompt, 11)]


def test_a_model_that_cannot_be_cut_anywhere_guesses_nothing() -> None:
    scheduler = make(FakeBackend(can_split=False), most_guessing=2)
    scheduler.add(Greedy([16, 0, 0, 0, 0], 10).start())
    run(scheduler)
    assert scheduler.counters.guessed == 0
