"""Subcommands of `harness`, one per file; `harness.cli` imports the one that is called.

The file's name is the command's name and the first line of its docstring the help. It defines `EXAMPLE` (shown by
--help), `Arguments` (the parsed attributes, typed), `add_arguments(parser)` and `run(args)`, which returns an exit
code. `base` holds what several commands share. Results go to stdout, progress and warnings to stderr.
"""

DONE = 0
FAILED = 1
UNGRADED = 3
"""Done, but too many completions could not be graded. 2, a wrong request, is a `UsageError`."""
INTERRUPTED = 130
