"""Run a command in this process and read what it printed."""

import json

from harness.cli import main


def output(capsys, *command, code=0):
    """Return stdout and stderr of a command that must end with this exit code."""
    assert main(command) == code
    return capsys.readouterr()


def tables(capsys, *command, code=0):
    """Return the tables that a command prints as JSON."""
    return json.loads(output(capsys, *command, "--json", "--quiet", code=code).out)
