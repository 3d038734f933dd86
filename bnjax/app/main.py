"""The `bnjax` command: parse, hand over, and turn errors into one line and an exit code."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import bnjax
from bnjax.app.errors import UserError, printable
from bnjax.app.io import signals

_DESCRIPTION = """Batch normalization, trained, checked and explained.

Example: bnjax train --epochs 20 --learning-rate 1

The version: bnjax --version, or -V."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    signals.leave_at_once()
    sys.exit(run(sys.argv[1:], keep_programs=True))


def run(arguments: Sequence[str], *, keep_programs: bool = False) -> int:
    """Run one command.

    Args:
        arguments: What stands behind `bnjax` on the command line.
        keep_programs: Whether compiled programs are kept, unless --no-compilation-cache is given.

    Returns:
        The exit code: 0; 1 where `verify` finds an equation that falls short or `audit` a rule that
        disagrees; 2 for what the user can correct; 3 where training diverged; 130 after Ctrl-C or
        SIGTERM.
    """
    if list(arguments) in (["--version"], ["-V"]):
        print(f"bnjax {bnjax.__version__}")
        return 0
    try:
        return _run(arguments, keep_programs)
    except UserError as error:
        return _complain(str(error))
    except ModuleNotFoundError as missing:
        return _complain(
            f"the command line needs {missing.name}, which is not installed: "
            "pip install 'bnjax[cli]'"
        )
    except MemoryError as error:
        return _complain(f"not enough memory: {error or 'use less data, or smaller batches'}")
    except BrokenPipeError:
        # whoever read our output has gone; a second failure at exit would print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not isinstance(error, _jax_errors()):
            raise
        return _complain(f"JAX cannot run this: {str(error).splitlines()[0]}")


def _run(arguments: Sequence[str], keep_programs: bool) -> int:
    from bnjax.app import options
    from bnjax.app.io import terminal

    terminal.show_everything()
    names = ("train", "sweep", "explain", "predict", "verify", "audit", "claims")
    command = _parse(
        arguments or ["--help"], {name: getattr(options, name.capitalize()) for name in names}
    )
    if isinstance(command, int):
        return command
    if keep_programs and getattr(command, "compilation_cache", True):
        from bnjax.app.io import programs

        programs.keep()
    import jax

    jax.config.update("jax_transfer_guard", "allow")  # a guard is for the user's own programs
    call = _load(arguments[0])
    if isinstance(command, options.Train | options.Claims):
        return call(command, given=_given(arguments))
    return call(command)


def _jax_errors() -> tuple[type[Exception], ...]:
    """Return what JAX raises where a device has too little memory, or is lost."""
    return (sys.modules["jax"].errors.JaxRuntimeError,) if "jax" in sys.modules else ()


def _load(name: str) -> Callable[..., int]:
    import importlib

    return getattr(importlib.import_module(f"bnjax.app.commands.{name}"), name)


def _given(arguments: Sequence[str]) -> frozenset[str]:
    """Name the options that are spelt out, as --batch-size."""
    options = (each.split("=")[0] for each in arguments if each.startswith("--"))
    return frozenset(option.replace("_", "-") for option in options)


def _complain(message: str) -> int:
    print(f"bnjax: {printable(message)}", file=sys.stderr)
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
        named = commands.get(arguments[0])
        where = f"bnjax {arguments[0]} --help" if named else "bnjax --help"
        valid = [field.name for field in dataclasses.fields(named)] if named else [*commands]
        raise UserError(f"{_one_line(box.getvalue(), valid)} See {where}.") from None


def _one_line(box: str, valid: Sequence[str]) -> str:
    """Take what matters out of the parser's framed message, and add the nearest valid name."""
    rows = [row.strip(" │|╭╮╰╯+") for row in box.splitlines()]
    # the first frame line holds a title, later ones part the error from its explanation
    said, *_ = re.split(r"\n[─-]{9,}\n", "\n".join(rows[1:]))
    said = " ".join(said.strip("─-").split("Got errors:")[0].split())
    if said.startswith("Missing from"):
        return f"expected {' and '.join(row for row in rows if row.isupper())}."
    if not (unknown := re.match(r"Unrecognized options: (\S+?),? ", f"{said} ")):
        return f"{said}." if said[-1:].isalnum() else said
    dashes = "--" if unknown[1].startswith("-") else ""
    names = [dashes + name.replace("_", "-") for name in valid]
    near = difflib.get_close_matches(unknown[1], names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"unknown {'option' if dashes else 'command'} {unknown[1]}.{hint}"
