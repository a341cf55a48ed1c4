"""Files and command lines that are damaged, or written to do harm, by chance: `make fuzz`.

    mutations.py   how bytes and text are changed
    targets.py     for each format: sound files, and the code of this project that reads them
    watch.py       reads changed files in processes of their own, within limits, and says what came of each
    run.py         the command: so many inputs for each format, a table, exit code 1 for any fault
    guided.py      the same targets under atheris, which looks for inputs that reach new lines of our code

What was found has its smallest input in the tests of the reader; tests/test_fuzz.py plays a few inputs of
each format and checks that the watch sees what it is to see.
"""
