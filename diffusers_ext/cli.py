"""Define the `diffusers-ext` command: its help, its version, and how errors become one sentence."""

import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Annotated, Any

import typer

from .commands import making
from .commands.app import app as page
from .commands.collect import collect
from .commands.compare import compare
from .commands.demo import demo
from .commands.eval import evaluate
from .commands.generate import generate
from .commands.headhunter import headhunter
from .commands.heads import heads
from .commands.listing import doctor, families, methods, samplers
from .commands.names import Command, Group
from .commands.plan import plan
from .commands.reward import reward
from .commands.run import run
from .commands.search import search
from .commands.show import show
from .commands.story import story
from .commands.train import train
from .commands.tune import tune
from .outputs.stop import Interrupted, interrupting

OURS = "diffusers_ext: "  # how warnings of a session begin


class OneLineErrors(Group):
    """Print an error of the user as one line and exit with code 2.

    `--debug` shows where the error came from. Ctrl-C, SIGTERM and SIGHUP also end in one line. The exit code
    is then 128 plus the number of the signal.
    """

    def invoke(self, ctx: Any) -> Any:
        torch = sys.modules.get("torch")
        threads = torch.get_num_threads() if torch else None
        try:
            with interrupting():
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has closed it, as head does
            raise
        except (ValueError, OSError) as error:  # MethodError is a ValueError
            if ctx.params.get("debug"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            with suppress(OSError):  # after SIGHUP the terminal may be gone
                typer.echo(str(error) or "stopped; files already written are complete", err=True)
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise typer.Exit(128 + number) from None
        finally:
            if threads is not None:  # the process may go on, such as a notebook
                torch.set_num_threads(threads)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Inference-time methods for Hugging Face diffusers pipelines.",
)


def _version(asked: bool) -> None:
    if asked:
        from ._version import __version__

        typer.echo(f"diffusers-ext {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DIFFUSERS_EXT_DEBUG", help="Show where errors come from.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Read the options that come before the command."""
    making.debug.set(debug)


for command in (generate, search, story, run, show, compare, demo, heads):
    app.command(cls=Command)(command)
app.command("app", cls=Command)(page)
app.command("eval", cls=Command)(evaluate)  # a function named eval would hide the builtin
for command in (tune, headhunter, reward, plan, train, collect, methods, samplers, families, doctor):
    app.command(cls=Command)(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Exit codes: 0; 1 if a picture could not be made; 2 after a user error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", OURS)
        warnings.showwarning = partial(_in_one_line, warnings.showwarning)
        _built()(args=None if argv is None else list(argv), prog_name="diffusers-ext")


@cache
def _built() -> Any:
    """Read the options of all commands, once in a process that runs several."""
    return typer.main.get_command(app)


def _in_one_line(shown: Callable[..., None], message: Warning | str, *where: Any, **more: Any) -> None:
    """Show our own warnings as a sentence, without the line of code that they come from."""
    if str(message).startswith(OURS):
        typer.echo(f"warning: {str(message).removeprefix(OURS)}", err=True)
    else:
        shown(message, *where, **more)
