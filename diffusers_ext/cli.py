"""The `diffusers-ext` command: help, version and the one place where errors become a sentence."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .commands.compare import compare
from .commands.demo import demo
from .commands.eval import evaluate
from .commands.generate import generate
from .commands.listing import doctor, families, methods
from .commands.plan import plan
from .commands.train import train


class OneLineErrors(TyperGroup):
    """Errors of the user end in one line and exit code 2; `--debug` shows where they came from."""

    def invoke(self, ctx: Any) -> Any:
        torch = sys.modules.get("torch")
        threads = torch.get_num_threads() if torch else None
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:  # MethodError is a ValueError
            if ctx.params.get("debug"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            typer.echo("stopped; files already written are complete", err=True)
            raise typer.Exit(130) from None
        finally:
            if threads is not None:  # of a process that goes on, such as a notebook
                torch.set_num_threads(threads)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Inference-time methods for Hugging Face diffusers pipelines.",
)


def _version(asked: bool) -> None:
    if asked:
        from . import __version__

        typer.echo(f"diffusers-ext {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DIFFUSERS_EXT_DEBUG", help="Show tracebacks.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options before the command."""


for command in (generate, compare, demo):
    app.command()(command)
app.command("eval")(evaluate)  # the function may not bear the name of a builtin
for command in (plan, train, methods, families, doctor):
    app.command()(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 0, or with 2 after a user error."""
    app(args=None if argv is None else list(argv), prog_name="diffusers-ext")
