"""The `bnjax` command: parse, hand over, and turn errors into one line and an exit code."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import bnjax
from bnjax.app.errors import UserError

_DESCRIPTION = """Batch normalization, trained, checked and explained.

Example: bnjax train --epochs 20 --learning-rate 1"""


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: What stands behind `bnjax` on the command line.

    Returns:
        The exit code: 0; 1 where `verify` finds an equation that falls short or `audit` a rule that
        disagrees; 2 for what the user can mend; 3 where training diverged; 130 after Ctrl-C.
    """
    if list(arguments) == ["--version"]:
        print(f"bnjax {bnjax.__version__}")
        return 0
    try:
        from bnjax.app import audit
        from bnjax.app.explain import explain
        from bnjax.app.options import Audit, Explain, Predict, Sweep, Train, Verify
        from bnjax.app.predict import predict
        from bnjax.app.sweep import sweep
        from bnjax.app.train import train
        from bnjax.app.verify import verify
    except ModuleNotFoundError as missing:
        return _complain(
            f"the command line needs {missing.name}, which is not installed: "
            "pip install 'bnjax[cli]'"
        )
    try:
        command = _parse(
            arguments or ["--help"],
            {
                "train": Train,
                "sweep": Sweep,
                "explain": Explain,
                "predict": Predict,
                "verify": Verify,
                "audit": Audit,
            },
        )
        if isinstance(command, Train):
            return train(command, given=_given(arguments))
        if isinstance(command, Sweep):
            return sweep(command)
        if isinstance(command, Explain):
            return explain(command)
        if isinstance(command, Predict):
            return predict(command)
        if isinstance(command, Audit):
            return audit.command(command)
        return verify(command) if isinstance(command, Verify) else command
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        # whoever read our output has gone; a second failure at exit would print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _given(arguments: Sequence[str]) -> frozenset[str]:
    """Name the options that are spelt out, as --batch-size."""
    options = (each.split("=")[0] for each in arguments if each.startswith("--"))
    return frozenset(option.replace("_", "-") for option in options)


def _complain(message: str) -> int:
    print(f"bnjax: {message}", file=sys.stderr)
    return 2


def _parse(arguments: Sequence[str], commands: dict[str, type]) -> Any:
    """Make the command's options, or the exit code of --help."""
    import tyro

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(
                commands, prog="bnjax", description=_DESCRIPTION, args=list(arguments)
            )
    except SystemExit as stop:
        if not stop.code:
            return 0
        raise UserError(_one_line(box.getvalue())) from None


def _one_line(box: str) -> str:
    """Take what matters out of the parser's framed message."""
    rows = [row.strip(" │|╭╮╰╯+") for row in box.splitlines()]
    # the first frame line holds a title, later ones part the error from its explanation
    said, *rest = re.split(r"\n[─-]{9,}\n", "\n".join(rows[1:]))
    said = " ".join(said.strip("─-").split("Got errors:")[0].split())
    near = re.search(r"Perhaps you meant:\s*(--[\w-]+)", "\n".join(rest))
    hint = f" Did you mean {near[1]}?" if near else ""
    return f"{said}{hint} See bnjax --help."
