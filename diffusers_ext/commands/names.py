"""Accept option names of other tools, and show help with an example and complete sentences."""

import copy
import inspect
from types import MappingProxyType
from typing import Any

from typer.core import TyperCommand, TyperGroup

# Our option -> its names in diffusers and in AUTOMATIC1111. A command's own options go first.
ALIASES = MappingProxyType(
    {
        "--steps": ("--num-inference-steps", "--num-steps", "--sampling-steps"),
        "--guidance-scale": ("--cfg", "--cfg-scale"),
        "--negative": ("--negative-prompt",),
        "--num-images": ("-n", "--num-images-per-prompt", "--batch-count"),
        "--n": ("-n",),
        "--batch": ("--batch-size",),
        "--height": ("-H",),
        "--width": ("-W",),
        "--num-frames": ("--frames",),
        "--frames": ("--num-frames",),
        "--seeds": ("--seed",),
        "--dtype": ("--torch-dtype",),
        "--out": ("--output", "--output-dir"),
    }
)
EXAMPLES = MappingProxyType(
    {
        "generate": 'diffusers-ext generate "a red circle" --method softpag --seed 7 -n 4',
        "search": 'diffusers-ext search "two blue stars" --sampler best-of-8 --seed 7',
        "show": "diffusers-ext show out/a-red-circle-7-1a2b3c4d.png --again",
        "compare": 'diffusers-ext compare "two blue stars" --methods plain,softpag --seeds 0,1',
        "run": "diffusers-ext run job.toml --dry-run",
        "story": 'diffusers-ext story --subject "ann=a red circle" --scene "ann and a blue star"',
        "app": "diffusers-ext app --port 7860",
        "demo": "diffusers-ext demo --out my-demo",
        "eval": "diffusers-ext eval --model shapes-sd --method softpag --n 20",
        "tune": "diffusers-ext tune --method softpag --grid 'scale=[1,2,4]' --confirm 40",
        "heads": 'diffusers-ext heads "a red circle and a blue square" --maps-only',
        "headhunter": "diffusers-ext headhunter --model shapes-sd --pairs 6 --top-k 3",
        "reward": "diffusers-ext reward --suite held-out --prompts 20",
        "plan": "diffusers-ext plan flux.1 --method clear --height 2048 --width 2048",
        "train": "diffusers-ext train shapes-sd3 --minutes 30 --out runs",
        "collect": "diffusers-ext collect --model shapes-sd --n 2000 --out pairs",
        "methods": "diffusers-ext methods softpag",
        "samplers": "diffusers-ext samplers ttsnap",
        "families": "diffusers-ext families --json",
        "doctor": "diffusers-ext doctor",
    }
)


class Command(TyperCommand):
    """This command also takes the names in `ALIASES`, which its help lists at the end."""

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)
        for alias, option in self._aliases(ctx).items():
            hidden = copy.copy(option)
            hidden.opts, hidden.secondary_opts = [alias], []
            hidden.add_to_parser(parser, ctx)
        return parser

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        super().format_epilog(ctx, formatter)
        others: dict[str, list[str]] = {}
        for alias, option in self._aliases(ctx).items():
            others.setdefault(max(option.opts, key=len), []).append(alias)
        if others:
            with formatter.section("Other names"):
                formatter.write_dl([(name, f"Also {', '.join(also)}.") for name, also in others.items()])
        if self.name in EXAMPLES:
            with formatter.section("Example"):
                formatter.write(f"  {EXAMPLES[self.name]}\n")

    def _aliases(self, ctx: Any) -> dict[str, Any]:
        """Map aliases to options. An alias that is an option of the command itself is left out."""
        options = [p for p in self.get_params(ctx) if p.param_type_name == "option"]
        own = {name for option in options for name in (*option.opts, *option.secondary_opts)}
        named = ((alias, o) for o in options for name in o.opts for alias in ALIASES.get(name, ()))
        return {alias: option for alias, option in named if alias not in own}


class Group(TyperGroup):
    """Show complete sentences in the list of commands, wrapped at the end of the line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            first = inspect.cleandoc(command.help or "").split("\n\n")[0]
            rows.append((name, " ".join(first.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
