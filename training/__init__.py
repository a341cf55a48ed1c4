"""What train_v2.py is made of: the schedule, the end of a step, checkpoints, what ranks have to share.

Used by train_v2.py alone.

    lr_scheduler.py    the steps of a run and the learning rate of each
    step_guard.py      ends a step: clips, updates, or skips it where numbers are not finite
    diagnosis.py       why steps are skipped
    run_folder.py      the output folder: tried out, and locked for the length of the run
    identity.py        settings, data and code of a run, compared between ranks and with a checkpoint
    memory.py          what a run will need of its device's memory
    optimizer.py       optimisers and the loss scaler; their state as a checkpoint keeps it
    training_state.py  everything that the next step depends on, into a checkpoint and back
    checkpoint.py      checkpoints that do not depend on the number of ranks
    rank_buffers.py    statistics that each rank has of its own, in a checkpoint out of turn
    manifest.py        which files a checkpoint has, and their checksums
    run_report.py      report.html and curves.png, now and then and at the end
    hard_samples.py    the samples and identities that the report shows as the hardest
    hints.py           what to know before the first step keeps silent for minutes
    settings_page.py   `train_v2.py --settings`
"""
