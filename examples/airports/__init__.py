"""A durable pipeline over 28,000 real airports, killed half-way and carried on by another process.

Run it with `make demo`, or ``python -m examples.airports.demo`` from a checkout. The parts, in reading order:

* `models`: the application's own tables,
* `rules`: what makes a good row, in plain functions that know no database,
* `pipeline`: the workflow and its steps,
* `run`: a process that runs the workflow, or carries it on,
* `demo`: starts such a process, kills it with SIGKILL, starts another and checks the result.
"""
