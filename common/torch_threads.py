"""Threads that call torch, each of them computing alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def pool_of_single_threads(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch starts no others, so that n of them keep n cores busy and no more.

    torch keeps that number for each thread, and a copy for threads and libraries to come. So they
    are all started here, and the copy is then put back to what the calling thread has.
    """
    own = torch.get_num_threads()
    started = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread sets its number, to the copy
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode", initializer=begin)
    try:
        for _ in range(threads):
            pool.submit(started.wait)
        started.wait()
    except BaseException:
        started.abort()
        pool.shutdown()
        raise
    finally:
        torch.set_num_threads(own)
    return pool
