"""flambectl: speaks to the service's socket, and prints.

    arguments   the commands and their options, as a table
    program     from the arguments to an exit code
    commands    what each command does
    files       cluster files and key files, read as the caller
    client      HTTP over the Unix socket
    progress    what happens, while it happens
    outcome     what to say of a cluster that did not become ready
    show        documents as text for people
    reasons     why hosts live or end, as text for people
    times       times as people say them
    console     the terminal: tables, colours, widths
    login       the real ssh client, with the pinned key
    completion  scripts for shells
    failure     exit codes

It begins to work within a tenth of a second: nothing here imports the service's libraries, and the ones that read
cluster files are imported where a file is read.
"""

from flambed.cli.program import main

__all__ = ["main"]
