"""The benchmark: each target's work beside its baseline, in one run.

One server process on one core, everything else (the load, Redis, Postgres) on the
others. The figure that counts is the CPU time of the server process per unit of
work, taken by turns for the daemon and its baseline: the machine drifts, and only
what ran side by side compares. `scripts/bench --help` says how to use it.

    cores      which core does what, and how busy it was
    machine    child processes and what they have used
    servers    what runs in the children: the daemon, and what it is compared with
    load       many sockets in one epoll, and ready-made frames
    subjects   the devices of a server, and bare sockets
    paced      load at a fixed rate, and what was late
    rows_*     the rows of the table: delivery, clients, scale, growth, processes
    figure     what a row tells
    report     the table for people, the JSON for programs
    charts     pictures of some rows; svg draws them
"""
