"""How images come to the training loop: which, in which order, changed how, and prepared by which process.

    loader.py         the order of an epoch, and its batches, in worker processes
    global_batch.py   the images of one optimiser step, and which of them a rank takes
    augment.py        the random changes of an image
    draws.py          random numbers of images, for a whole batch at once
    shared_images.py  memory in which worker processes hand images over
    bad_records.py    images that cannot be used and were replaced
    readers/          the data themselves, one file for each kind that they may be kept in

dataset.py chooses among them.
"""
