"""Compile a kernel for a GPU that is not there, and count its machine instructions.

Triton brings ptxas and cuobjdump, so neither a driver nor CUDA is needed. It does not work in Triton's
interpreter.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FLOATS = ("lse", "dlse", "delta", "gain", "bias")
INDICES = ("row_ptr", "col", "order", "col_ptr", "row", "q_coord", "k_coord", "table")
OPERANDS = ("q", "k", "v", "out", "do", "dq", "dk", "dv")
# The parameters of each rule; a dilation of 1 becomes a constant at launch, as in every launch that has it.
PARAMS = {"none": (), "disk": (2,), "box": (2, 2, 2, 1) * 3, "band": (2, 2, 2), "lut": (2, 2)}
ALIGNED = re.compile(r"(q|k|v|o|do)_[bsh]|S_q|S_kv")  # steps and sizes, in launches of real sizes
REGISTERS, THREADS = 65_536, 2_048  # of a multiprocessor
SHARED = {80: 167_936, 86: 102_400, 89: 102_400, 90: 233_472, 100: 233_472, 120: 102_400}  # its bytes
RESERVED = 1_024  # bytes of shared memory that each program takes besides its own


@dataclass(frozen=True, order=True)
class Way:
    """One way through a loop: how many instructions of a warp, loads, maskings and exponentials."""

    length: int = 0
    loads: int = 0
    maskings: int = 0
    exponentials: int = 0

    def __add__(self, other: "Way") -> "Way":
        return Way(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: `stack` is bytes of a thread in memory, `shared` bytes of a program."""

    arch: int
    registers: int
    stack: int
    shared: int
    warps: int
    ptx: str
    sass: tuple[str, ...]  # an instruction a line, with its address in front
    warnings: str

    @property
    def programs(self) -> int:
        """The number of programs that a multiprocessor holds at once."""
        threads = 32 * self.warps
        by_registers = REGISTERS // (-(-self.registers // 8) * 8 * threads)
        return min(by_registers, SHARED[self.arch] // (self.shared + RESERVED), THREADS // threads)

    @property
    def serialised(self) -> bool:
        """Whether ptxas makes each product wait for the one before."""
        return "wgmma.mma_async instructions are serialized" in self.warnings

    @cached_property
    def ways(self) -> list[Way]:
        """All ways through the loop with the products, by length; inner loops count once."""
        code = [(int(line[:5], 16), line[6:]) for line in self.sass]
        index = {address: n for n, (address, _) in enumerate(code)}
        jumps = {n: index.get(t) for n, (_, text) in enumerate(code) if (t := _target(text)) is not None}
        spans = [(to, n) for n, to in jumps.items() if to is not None and to <= n and _products(code[to:n])]
        # code that waits is at the end and jumps back into the loop, so the loop is the span of none
        loops = [(a, b) for a, b in spans if not any(c < a <= d < b or (a < c and d < b) for c, d in spans)]
        first, last = max(loops, key=lambda span: _products(code[span[0] : span[1]]))
        known: dict[int, set[Way]] = {}

        def walk(n: int) -> set[Way]:
            if n not in known:
                so_far, at = Way(), n
                while True:
                    so_far += _count(code[at][1])
                    after = [] if at == last else [at + 1]
                    if at in jumps and at != last:
                        after = after if _conditional(code[at][1]) else []
                        to = jumps[at]
                        after += [to] if to is not None and at < to <= last else []
                    if len(after) != 1 or after[0] in known:
                        break
                    at = after[0]
                ends = {way for to in after for way in walk(to)} if at != last else {Way()}
                known[n] = {so_far + way for way in ends}
            return known[n]

        return sorted(walk(first))

    def costs(self, rows: int, columns: int, warps: int) -> tuple[float, float]:
        """Return the instructions of a warp for 64 keys: without a check, and with one by the rule.

        A program of `warps` computes tiles of `rows x columns`. The way without a check is the shortest. Of
        those that mask every score, the way of the rule has the fewest loads.
        """
        pairs = rows * columns // (32 * warps)
        shortest = self.ways[0]
        unit = 64 / columns / max(1, shortest.exponentials // pairs)
        masked = [way for way in self.ways if way.maskings - shortest.maskings > 0.9 * pairs]
        checked = min(masked, key=lambda way: (way.loads, way.length), default=shortest)
        return shortest.length * unit, checked.length * unit


def _target(text: str) -> int | None:
    found = re.search(r"\bBRA\b.*0x([0-9a-f]+)", text)
    return int(found[1], 16) if found else None


def _conditional(text: str) -> bool:
    return text.startswith("@") or re.search(r"\bBRA(\.\w+)* +!?U?P", text) is not None


def _products(code: list[tuple[int, str]]) -> int:
    return sum("MMA" in text for _, text in code)


def _count(text: str) -> Way:
    name = text.split()[1 if text.startswith("@") else 0]
    masking = name.startswith(("FMNMX", "FSEL"))
    return Way(1, name.startswith("LDG"), masking, name.startswith("MUFU.EX2"))


def compiled(
    kernel: Any, arch: int, mask: str, constants: Mapping[str, Any], *, warps: int, stages: int,
    registers: int | None = None, dtype: str = "bf16",
) -> Binary:  # fmt: skip
    """Compile `kernel` for compute capability `arch`, its arguments specialised as a launch would."""
    signature, values, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[i,] = "constexpr", constants[name]
            continue
        if name == "rule":
            signature[name] = tuple("constexpr" if x == 1 else "i32" for x in PARAMS[mask])
            values |= {(i, j): 1 for j, x in enumerate(PARAMS[mask]) if x == 1}
            continue
        kind = {name: "*fp32" for name in FLOATS} | dict.fromkeys(INDICES, "*i32")
        kind |= dict.fromkeys(OPERANDS, f"*{dtype}")
        signature[name] = kind.get(name, "fp32" if name.startswith("scale") else "i32")
        if name in kind or ALIGNED.fullmatch(name):
            attributes[i,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes)
    settings = {"num_warps": warps, "num_stages": stages}
    settings |= {} if registers is None else {"maxnreg": registers}
    return _read(triton.compile(source, target=GPUTarget("cuda", arch, 32), options=settings), arch)


def _read(program: Any, arch: int) -> Binary:
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder) / "kernel.cubin", Path(folder) / "kernel.ptx"
        cubin.write_bytes(program.asm["cubin"])
        ptx.write_text(program.asm["ptx"])
        usage = _run("cuobjdump", "--dump-resource-usage", cubin)
        listing = _run("cuobjdump", "-sass", cubin)
        name = re.search(r"\.target (\w+)", program.asm["ptx"])[1]
        assembler = "ptxas-blackwell" if arch >= 100 else "ptxas"
        warnings = _run(assembler, "-v", f"--gpu-name={name}", ptx, "-o", Path(folder) / "again")
    found = {key: int(n) for key, n in re.findall(r"(REG|STACK):(\d+)", usage)}
    return Binary(
        arch, found["REG"], found["STACK"], program.metadata.shared, program.metadata.num_warps,
        program.asm["ptx"], tuple(_lines(listing)), warnings,
    )  # fmt: skip


def _lines(listing: str) -> Iterator[str]:
    for address, text in re.findall(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", listing, re.MULTILINE):
        yield f"{address:0>5} {text.strip()}"


def _run(tool: str, *arguments: Any) -> str:
    command = [Path(triton.__file__).parent / "backends/nvidia/bin" / tool, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
