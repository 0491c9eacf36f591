"""Write and read the one text block that image viewers and galleries know, as AUTOMATIC1111 writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

KEY = "parameters"  # of the PNG chunk
_NEGATIVE = "Negative prompt:"
# A name starts the line or follows a comma. If it could start anywhere, a long text would take hours.
_FACT = re.compile(r'(?:^|(?<=,))\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_FEWEST = 3  # facts of a last line; with fewer, it belongs to the prompt


def parameters(record: Mapping[str, Any]) -> str:
    """Write the block of a record: prompt, negative prompt, and one line of facts."""
    call = record.get("call", {})
    facts = {
        "Steps": call.get("num_inference_steps"),
        "CFG scale": call.get("guidance_scale"),
        "Seed": record.get("seed"),
        "Size": "x".join(map(str, record.get("size", []))) or None,
        "Model": record.get("model"),
        "Methods": "+".join(m["name"] for m in record.get("methods", [])) or None,
    }
    lines = [str(record.get("prompt", ""))]
    if call.get("negative_prompt"):
        lines.append(f"{_NEGATIVE} {call['negative_prompt']}")
    return "\n".join([*lines, ", ".join(f"{k}: {v}" for k, v in facts.items() if v is not None)])


def parse(text: str) -> tuple[str, str | None, dict[str, str]]:
    """Return prompt, negative prompt and facts of a block, as `{"Steps": "20", "Seed": "7", ...}`.

    The last line has the facts, if there are three or more. Texts without it are prompts.
    """
    lines, facts = text.strip().split("\n"), {}
    found = _FACT.findall(lines[-1])
    if len(found) >= _FEWEST:
        facts = {key: value.strip().strip('"') for key, value in found}
        lines.pop()
    start = next((i for i, line in enumerate(lines) if line.strip().startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).strip().removeprefix(_NEGATIVE).strip()
    return "\n".join(lines[:start]).strip(), negative or None, facts
