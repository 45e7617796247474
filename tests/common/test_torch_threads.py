"""Workers compute alone, and whoever started them as before."""

import threading

import torch

from reskd.common.torch_threads import pool_of_single_threads


def test_workers_have_one_thread_each_and_the_caller_keeps_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pool_of_single_threads(2) as pool:
            both = threading.Barrier(2)

            def work() -> int:
                both.wait(10)
                torch.rand(200_000).sort()
                return torch.get_num_threads()

            assert [one.result() for one in [pool.submit(work), pool.submit(work)]] == [1, 1]
            assert torch.get_num_threads() == 3
            later = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
            numbers: list[int] = []
            later.start()
            later.join()
            assert numbers == [3]
    finally:
        torch.set_num_threads(before)
