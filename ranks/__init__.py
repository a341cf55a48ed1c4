"""The processes of a run, one a GPU: how they agree, wait for one another, stop and fail together.

    agreement.py        values that have to be equal on every rank
    data_parallel.py    the backbone whose gradients are averaged over the ranks
    fail_together.py    what fails on one rank fails on all, with one message
    watchdog.py         names the rank that the others wait for, and ends too long a wait
    peers.py            what the ranks know of one another: where each is, and whether it is alive
    preemption.py       SIGTERM: all stop after the same step
    sync_batch_norm.py  BatchNorm over the images of all ranks

The collectives themselves are in utils/distributed.py.
"""
