"""Inboxes, workers and helpers under more threads than there are cores. Everybody starts at a barrier; what is drawn comes
from a seed, which a failure shows."""

import random
from collections.abc import Callable
from functools import partial
from threading import Barrier, Event, Thread
from time import sleep

import pytest

from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.inbox import Inbox
from pgdoorman.runtime.worker import Worker

PATIENCE = 20.0
SEEDS = [1, 2, 3]
THREADS = 8


def together(*jobs: Callable[[], object]) -> None:
    """Runs each on a thread of its own, from a barrier on. Raises what the first of them raised."""
    barrier = Barrier(len(jobs))
    errors: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        barrier.wait(PATIENCE)
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_posts_from_everywhere_arrive_once_and_in_their_senders_order(seed: int) -> None:
    worker = Worker("worker", 0)
    worker.start()
    heard: list[tuple[int, int]] = []
    finished = Event()
    count = 2000
    left = [THREADS]

    def ended() -> None:
        left[0] -= 1
        if not left[0]:
            finished.set()

    def post(sender: int) -> None:
        draw = random.Random(seed * 100 + sender)
        for number in range(count):
            assert worker.post(partial(heard.append, (sender, number)))
            if draw.random() < 0.01:
                Event().wait(draw.random() / 1000)
        worker.post(ended)

    together(*(partial(post, sender) for sender in range(THREADS)))
    assert finished.wait(PATIENCE), f"seed {seed}: {len(heard)} of {THREADS * count} arrived"
    worker.stop()
    worker.join(PATIENCE)
    for sender in range(THREADS):
        assert [number for by, number in heard if by == sender] == list(range(count)), f"seed {seed}, sender {sender}"


@pytest.mark.parametrize("seed", SEEDS)
def test_every_accepted_post_is_made_even_if_the_worker_ends(seed: int) -> None:
    """True means: it will be made. False means: it is still the caller's."""
    for round_number in range(20):
        draw = random.Random(seed * 1000 + round_number)
        worker = Worker("worker", 0)
        worker.start()
        made: list[int] = []
        accepted: list[int] = []

        def post(sender: int, worker: Worker = worker, made: list[int] = made, accepted: list[int] = accepted) -> None:
            for number in range(200):
                token = sender * 1000 + number
                if worker.post(partial(made.append, token)):
                    accepted.append(token)
                else:
                    return

        def stop(pause: float = draw.random() / 500, worker: Worker = worker) -> None:
            Event().wait(pause)
            worker.stop()

        together(stop, *(partial(post, sender) for sender in range(THREADS)))
        worker.join(PATIENCE)
        assert not worker.is_alive()
        assert sorted(made) == sorted(accepted), f"seed {seed}, round {round_number}"


def test_a_closing_inbox_gives_back_exactly_what_it_accepted() -> None:
    for _ in range(200):
        inbox = Inbox()
        results: list[bool] = []

        def post(inbox: Inbox = inbox, results: list[bool] = results) -> None:
            results.append(inbox.post(lambda: None))

        returned: list[int] = []

        def close(inbox: Inbox = inbox, returned: list[int] = returned) -> None:
            returned.append(len(inbox.close()))

        together(post, post, close, post)
        assert returned == [results.count(True)]


def test_workers_that_post_to_each_other_do_not_lock_up() -> None:
    workers = [Worker(f"worker {index}", index) for index in range(THREADS)]
    for worker in workers:
        worker.start()
    finished = Event()
    hops = 4000
    done = [0] * THREADS

    def hop(token: int, left: int) -> None:
        if left:
            workers[(token * 7 + left) % THREADS].post(partial(hop, token, left - 1))
            return
        done[token] = 1
        if all(done):
            finished.set()

    together(*(partial(hop, token, hops) for token in range(THREADS)))
    assert finished.wait(PATIENCE), f"{sum(done)} of {THREADS} came through"
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.join(PATIENCE)
        assert worker.crashes == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_every_job_of_the_helpers_runs_once(seed: int) -> None:
    helpers = Helpers(THREADS)
    ran: list[int] = []
    count = 300

    def submit(sender: int) -> None:
        draw = random.Random(seed * 100 + sender)
        for number in range(count):
            assert helpers.submit(partial(ran.append, sender * count + number))
            if draw.random() < 0.02:
                Event().wait(draw.random() / 2000)

    together(*(partial(submit, sender) for sender in range(THREADS)))
    last = Event()
    while helpers.waiting:
        Event().wait(0.001)
    helpers.submit(last.set)
    assert last.wait(PATIENCE)
    helpers.close(PATIENCE)
    assert sorted(ran) == list(range(THREADS * count)), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_closing_helpers_among_submissions(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        helpers = Helpers(3)
        pause = draw.random() / 1000

        def submit(helpers: Helpers = helpers) -> None:
            while helpers.submit(lambda: None):
                sleep(0.00001)  # locks are not fair: without a pause the closing thread may have to wait for long

        def close(helpers: Helpers = helpers, pause: float = pause) -> None:
            Event().wait(pause)
            helpers.close(PATIENCE)

        together(submit, submit, close, submit)
        assert helpers.waiting == 0
        assert all(not thread.is_alive() for thread in helpers._threads)
