"""Test the run on a lent machine: deadlines, failures, carried wheels, and what a stop leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu import GROUPS, LEAST, PARTS, QUICK, affordable, chosen, deadline, environment, unpack
from bench.gpu_part import ROOT, Part, end, run
from bench.gpu_summary import too_small
from bench.ledger import sentence
from diffusers_ext.outputs.stop import StopRequest

HERE = environment([])
SHORT = Part("ceilings", "x", 1, cpu=("--only", "ceiling"), of="rates")


def read(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_part_runs_in_a_process_of_its_own_and_is_summed_up(tmp_path, capsys):
    gpu.main(["--device", "cpu", "--quick", "--only", "ceilings", "--out", str(tmp_path)])
    record = read(tmp_path)
    (part,) = record["parts"]
    assert (part["part"], part["state"], part["rows"]) == ("ceilings", "done", 3)
    assert part["failed"] == {} and part["waiting"] == [] and 0 < part["seconds"] < part["deadline_s"]
    assert record["device"].startswith("cpu-") and record["torch"] and record["diffusers"]
    text = (tmp_path / "summary.md").read_text()
    assert "| ceilings | done | 3 | 0 | 0 |" in text and text in capsys.readouterr().out
    assert "Constants" not in text, "there is only dense attention"
    assert "ceiling: matrix product" in (tmp_path / "log.txt").read_text()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"log.txt", "summary.json", "summary.md", f"rates-{record['device']}.json"}


def test_parts_that_cannot_run_are_sentences_and_the_run_survives(tmp_path, monkeypatch):
    """One module is missing, one has wrong options, and one works."""
    broken = Part("nothing_there", "x", 1), Part("growth", "x", 1, cpu=("--largest", "7"))
    monkeypatch.setattr(gpu, "PARTS", (*broken, SHORT))
    parts = gpu.main(["--device", "cpu", "--out", str(tmp_path)])
    assert [part.state for part in parts] == ["failed", "failed", "done"]
    assert parts[0].why.endswith("No module named bench.timing.nothing_there")
    assert "--largest must be 4096 or more, got 7" in parts[1].why and parts[2].rows == 3
    with pytest.raises(SystemExit, match=r"^error: a part failed"):
        gpu.main(["--device", "cpu", "--strict", "--only", "nothing_there", "--out", str(tmp_path)])


def test_a_part_is_stopped_at_its_deadline_and_its_rows_are_kept(tmp_path):
    part = Part("blocks", "x", 1, cpu=("--modes", "eager", "compiled"))
    found = run(part, "cpu", tmp_path, HERE, 1.0, StopRequest())
    assert (found.state, found.rows) == ("stopped", 0) and found.why.startswith("stopped after 1 s")
    path = tmp_path / f"blocks-cpu-{os.uname().machine}.json"
    path.write_text(json.dumps({"rows": [{}], "failed": {"a": "b"}, "waiting": ["c", "d"]}))
    again = run(part, "cpu", tmp_path, HERE, 1.0, StopRequest())
    assert (again.rows, again.failed, again.waiting) == (0, {}, []), "of another run"


def test_what_a_part_has_started_ends_with_it():
    words = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"]
    process = subprocess.Popen(words, start_new_session=True)
    while len(members(process.pid)) < 2:
        time.sleep(0.05)
    end(process)
    assert process.returncode == -signal.SIGTERM
    deadline = time.monotonic() + 30  # the parent that gathers orphans may take its time
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(process.pid)


def members(group):
    """Return the running processes of a group."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


def test_unspent_time_goes_to_later_parts():
    assert sum(part.share for part in PARTS) == pytest.approx(1)
    assert deadline(PARTS, 480) == pytest.approx(480 * PARTS[0].share)
    assert deadline(PARTS[-1:], 300) == 300
    left, spent = 480.0, 0.0
    for i in range(len(PARTS)):
        limit = deadline(PARTS[i:], left)
        assert limit >= 480 * PARTS[i].share - 1e-9
        left, spent = left - limit, spent + limit
    assert spent == pytest.approx(480)


def test_without_time_all_is_left_out(tmp_path):
    parts = gpu.main(["--device", "cpu", "--minutes", "0.0001", "--out", str(tmp_path)])
    assert {part.state for part in parts} == {"left out"} and len(parts) == len(PARTS)
    assert "no time was left of 0.0001 minutes" in (tmp_path / "summary.md").read_text()
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu", "--minutes", "0", "--out", str(tmp_path)])


def test_a_run_that_is_asked_to_end_says_what_it_left_out(tmp_path):
    words = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--out", str(tmp_path)]
    process = subprocess.Popen(words, cwd=ROOT, env=HERE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("gpu_tests: up to")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 130 and "| gpu_tests | interrupted |" in out
    states = [part["state"] for part in read(tmp_path)["parts"]]
    assert states == ["interrupted"] + ["left out"] * (len(PARTS) - 1)
    assert "the run was asked to end" in out and not members(process.pid)


def wheel(folder, name, code):
    """Build a wheel of one module, as `pip download` leaves it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: torch>99\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD")))
    return path


def test_carried_wheels_come_before_what_is_installed(tmp_path):
    wheel(tmp_path / "wheels", "tqdm", "carried = True\n")
    assert unpack(tmp_path / "wheels", tmp_path / "site") is None
    words = [sys.executable, "-c", "import tqdm, bench; print(tqdm.carried)"]
    space = environment([tmp_path / "site"])
    done = subprocess.run(words, env=space, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_wheel_that_does_not_fit_is_a_sentence_and_the_parts_run(tmp_path):
    path = wheel(tmp_path / "wheels", "tqdm", "")
    path.rename(path.with_name("tqdm-1.0-cp27-cp27m-win32.whl"))
    words = ["--device", "cpu", "--quick", "--only", "ceilings", "--wheels", str(tmp_path / "wheels")]
    (part,) = gpu.main([*words, "--out", str(tmp_path / "out")])
    assert part.state == "done"
    assert "could not be unpacked: ERROR: tqdm-1.0-cp27-cp27m-win32.whl" in read(tmp_path / "out")["wheels"]


def test_make_knows_the_groups_and_no_part():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^(gpu-.*): gpu-%", text, re.MULTILINE)[1].split()
    assert set(targets) == {f"gpu-{name}" for name in GROUPS}
    assert not [part.name for part in PARTS if f"{part.module} --device cuda" in text]
    assert [part.name for part in chosen(["blocks", "growth"])] == ["blocks", "growth"]
    kernels = {"rates", "sparse_kernels", "variants", "growth", "guidance_cost"}
    assert {part.name for part in chosen(["kernels"])} == kernels
    assert chosen([]) == list(PARTS) and chosen([], quick=True) == list(QUICK)


def test_a_quick_run_fits_eight_minutes_and_the_files_that_a_machine_gives_back():
    """Seconds are shares; two parts of one bench add to one record."""
    assert sum(part.share for part in QUICK) == 480
    assert len({part.name for part in QUICK}) == len(QUICK)
    assert len({part.bench for part in QUICK} | {"log.txt", "summary.json", "summary.md"}) <= 8
    assert QUICK[0].words == ("--only", "ceiling") and QUICK[1].name == "gpu_tests"


@pytest.mark.slow  # eight processes that load torch, five of them diffusers
def test_a_quick_run_goes_through_at_tiny_sizes(tmp_path):
    parts = gpu.main(["--device", "cpu", "--quick", "--minutes", "60", "--out", str(tmp_path)])
    assert [part.part for part in parts] == [part.name for part in QUICK]
    assert all(part.state == "done" and part.rows and not part.failed for part in parts), parts
    text = (tmp_path / "summary.md").read_text()
    assert "| as shipped | 32 | disk |" in text and "in the median of" in text


def test_names_that_a_run_does_not_have_are_refused(tmp_path, capsys):
    for words, said in (
        (["--only", "growth", "--quick"], "growth runs only without --quick"),
        (["--only", "ceilings"], "ceilings runs only with --quick"),
        (["--minutes", "nan"], "--minutes must be a number above 0, got nan"),
        (["--minutes", "abc"], "invalid float value: 'abc'"),
    ):
        with pytest.raises(SystemExit):
            gpu.main(["--device", "cpu", "--out", str(tmp_path / "out"), *words])
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_results_need_a_folder_that_can_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below", Path("/proc/none")):
        with pytest.raises(SystemExit, match=r"^error: results need a folder that can be written, got /"):
            gpu.main(["--device", "cpu", "--out", str(out)])
    assert file.read_text() == "mine"


def test_few_minutes_go_to_the_first_parts():
    names = [part.name for part in affordable(QUICK, 60)]
    assert names == ["ceilings", "gpu_tests"] and affordable(QUICK, 480) == QUICK
    assert affordable(QUICK, 1) == QUICK[:1]
    assert deadline(affordable(QUICK, 60), 60) >= LEAST


def test_little_memory_is_a_sentence():
    assert too_small(41 << 30, 80 << 30) is None
    said = too_small(22 << 30, 24 << 30)
    assert "take up to 40 GiB and 22.0 of 24.0 GiB are free" in said
    why = sentence(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total")
    )
    assert why == "out of memory, 2.50 GiB did not fit; use a larger GPU, or free this one"
