"""Test a job in one process: what it leaves, what it skips, what it makes again, and how it fails."""

import json
import os
import resource
import shutil
import signal

import pytest

from diffusers_ext.jobs.job import Job
from diffusers_ext.jobs.manifest import Index
from diffusers_ext.jobs.watch import Watch
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.record import read
from tests import picture_faults as faults

from .jobs import PROMPTS, TURBO, lines, pictures, write


@pytest.fixture
def broken(monkeypatch):
    """Let pipelines have a fault in their autoencoder; gives a function that sets it."""
    original = Checkpoint.read

    def use(seeds, act):
        def faulty(*args, **kwargs):
            pipe = original(*args, **kwargs)
            faults.Fault(pipe, seeds, act)
            return pipe

        monkeypatch.setattr(Checkpoint, "read", faulty)

    return use


def test_a_job_leaves_pictures_lines_and_a_page_and_is_then_complete(cli, tmp_path):
    path = write(tmp_path)
    out = tmp_path / "out" / "job"
    code, said, err = cli("run", path, "--dry-run")
    assert (code, err) == (0, "") and "6 tasks, 0 finished, 6 to make\n" in said and "unknown until" in said
    assert not out.exists(), "a dry run writes nothing"
    assert cli("run", path) == (0, f"6 of 6 images are finished, 6 now: {out}, shown in index.html\n", "")
    made, first = pictures(out), lines(out)
    assert len(made) == 6 and [line["seed"] for line in first] == [0, 1, 2] * 2
    for line in first:
        record = read(out / line["file"])
        assert (record["prompt"], record["seed"]) == (line["prompt"], line["seed"])
        assert line["status"] == "done" and line["bytes"] == len(made[line["file"]])
        assert {"versions", "device", "seconds", "verdict", "worker", "time"} <= line.keys()
        assert "seconds" not in record, "bytes are the same in every run"
    assert (out / "index.html").is_file() and next((out / "manifest").glob("job-*.toml")).read_text()
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    assert "6 of 6 images are finished, 0 now, 6 before" in cli("run", path)[1]
    assert {p: p.stat().st_mtime_ns for p in times} == times and lines(out) == first
    said = cli("run", path, "--dry-run")[1]
    assert "6 tasks, 6 finished, 0 to make" in said and "nothing to do" in said


def test_variants_that_are_not_written_out_are_noted(cli, tmp_path):
    for text, mark in (("a {red|blue|} star", "{red|blue|}"), ("a __colour__ star", "__colour__")):
        job = 'model = {name = "shapes-sd-turbo"}\nprompts = {texts = ["a red star", "' + text + '"]}\n'
        (tmp_path / "job.toml").write_text(job)
        said = cli("run", tmp_path / "job.toml", "--dry-run")[1]
        assert f"note: prompt 2 has {mark}, which is drawn as it stands; expand = true under" in said
    for text in ("a snake_case__name", "a {red} star", "a red | blue star"):
        (tmp_path / "job.toml").write_text(job.replace("a __colour__ star", text))
        assert "note: " not in cli("run", tmp_path / "job.toml", "--dry-run")[1]


def test_what_is_missing_or_damaged_is_made_again_and_nothing_else(cli, tmp_path):
    path, out = write(tmp_path), tmp_path / "out" / "job"
    cli("run", path)
    before = pictures(out)
    gone, cut, changed, touched, *_ = sorted(before)
    (out / gone).unlink()
    (out / cut).write_bytes(before[cut][:100])
    (out / changed).write_bytes(before[changed][:-1] + b"?")  # as many bytes
    os.utime(out / touched)
    said = cli("run", path, "--dry-run")[1]
    assert "6 tasks, 3 finished, 3 to make" in said and "as in the 3 finished ones" in said
    assert "3 now, 3 before" in cli("run", path)[1]
    assert pictures(out) == before and len(lines(out)) == 9


def test_more_prompts_and_other_seeds_add_to_a_job(cli, tmp_path):
    path, out = write(tmp_path), tmp_path / "out" / "job"
    cli("run", path)
    before = pictures(out)
    write(tmp_path, TURBO + PROMPTS.replace('["', '["a blue star", "').replace("0-2", "1-3"))
    assert "9 of 9 images are finished, 5 now, 4 before" in cli("run", path)[1]
    assert before.items() <= pictures(out).items() and len(pictures(out)) == 11


def test_equal_jobs_are_equal_bytes_whatever_the_batch_order_or_shard(cli, tmp_path):
    path = write(tmp_path)
    cli("run", path)
    asked = pictures(tmp_path / "out" / "job")
    for part in ("1/2", "0/2"):
        assert (
            "3 of 3 images are finished, 3 now" in cli("run", path, "--shard", part, "-o", tmp_path / "b")[1]
        )
    other = write(tmp_path, TURBO + PROMPTS.replace('"0-2"', "[2, 0, 1]"), "other.toml")
    cli("run", other, "-o", tmp_path / "c")
    assert pictures(tmp_path / "b") == pictures(tmp_path / "c") == asked
    cli("run", path, "--batch", 4, "-o", tmp_path / "d")
    assert pictures(tmp_path / "d").keys() == asked.keys(), "pixels may differ by rounding in a batch"


def test_a_shard_counts_its_own_tasks_on_a_folder_of_all(cli, tmp_path):
    path = write(tmp_path)
    job = Job.read(path)
    job.out.mkdir(parents=True)
    seen = []
    watch = Watch(3, Index(job.out), job.mark, shard=(0, 2), each=lambda line, again: seen.append(line))
    for part, finished in (("1/2", 0), ("0/2", 3)):
        assert "3 of 3 images are finished, 3 now" in cli("run", path, "--shard", part)[1]
        watch.look()
        assert watch.finished == finished
    assert len(seen) == 6, "the page shows the pictures of all"


def test_equal_prompts_count_each(cli, tmp_path):
    path = write(tmp_path, TURBO + '[prompts]\ntexts = ["a red circle", "a red circle"]\n')
    for _ in range(2):
        assert "2 of 2 images are finished" in cli("run", path)[1]
    assert len(pictures(tmp_path / "out" / "job")) == 1


def test_failed_tasks_are_named_and_tried_again_by_the_next_run(cli, broken, tmp_path, monkeypatch):
    path, out = write(tmp_path), tmp_path / "out" / "job"
    broken([1], faults.not_a_number)
    code, said, err = cli("run", path)
    assert code == 1 and err.count("failed: the pipeline returned NaN or infinity") == 2
    assert "2 of 6 images could not be made" in err and "4 of 6 images are finished" in said
    assert len(pictures(out)) == 4
    bad = [line for line in lines(out) if line["status"] == "failed"]
    assert [line["seed"] for line in bad] == [1, 1] and all("NaN" in line["reason"] for line in bad)
    assert "Could not be made: 2" in (out / "index.html").read_text()
    assert "2 to make, 2 of which failed before" in cli("run", path, "--dry-run")[1]
    monkeypatch.undo()
    code, said, err = cli("run", path)
    assert (code, err) == (0, "") and "2 now, 4 before" in said
    assert "Could not be made" not in (out / "index.html").read_text()


def test_out_of_memory_is_tried_once_more_with_tiles_which_is_written_down(cli, broken, tmp_path):
    tried = []

    def once(latents, rows):
        tried.append(len(rows))
        if len(tried) == 1:
            faults.out_of_memory(latents, rows)

    broken([1], once)
    path = write(tmp_path, TURBO + PROMPTS.replace('"0-2"', "[1]"))
    code, _, err = cli("run", path)
    assert code == 0 and "decoded in tiles, since memory ran out" in err and len(tried) == 3
    first, second = lines(tmp_path / "out" / "job")
    assert first["flags"] == ["decoded in tiles, since memory ran out"] and second["flags"] == []
    assert read(tmp_path / "out" / "job" / first["file"])["flags"] == first["flags"]


def test_memory_that_never_suffices_fails_one_task_and_no_other(cli, broken, tmp_path):
    broken([1], faults.out_of_memory)
    code, _, err = cli("run", write(tmp_path, TURBO + PROMPTS), "--batch", 3)
    assert (
        code == 1 and len(pictures(tmp_path / "out" / "job")) == 4 and err.count("failed: out of memory") == 2
    )


def test_a_job_in_which_nothing_works_gives_up(cli, broken, tmp_path):
    broken(range(99), faults.any_error)
    code, _, err = cli("run", write(tmp_path, TURBO + PROMPTS.replace("0-2", "0-9")))
    assert code == 1 and err.count("failed: the pipeline failed with") == 5
    assert err.count("not tried, since the first 5 failed alike") == 15


def test_a_point_that_is_refused_fails_alone(cli, tmp_path):
    text = TURBO + PROMPTS + '[grid]\nmethod = ["radial", "plain"]\n'
    code, said, err = cli("run", write(tmp_path, text))
    assert code == 1 and "6 of 12 images are finished" in said and err.count("failed: ") == 6
    points = {line["point"] for line in lines(tmp_path / "out" / "job")}
    assert "Radial thins out frames" in err and points == {"method=radial", "method=plain"}


def test_rows_have_seeds_and_arguments_of_their_own(cli, tmp_path):
    rows = 'prompt,seed,height\na red circle,7,\na blue star,,32\n"two green squares",9,63\n'
    (tmp_path / "rows.csv").write_text(rows)
    path = write(tmp_path, TURBO + '[prompts]\nfile = "rows.csv"\nseeds = [0, 1]\n')
    code, _, err = cli("run", path)
    made = [line for line in lines(tmp_path / "out" / "job") if line["status"] == "done"]
    assert code == 1 and "63" in err and "rows.csv" in err
    assert [(line["seed"], line["size"]) for line in made] == [(7, [64, 64]), (0, [64, 32]), (1, [64, 32])]


def test_a_file_of_something_else_is_never_overwritten(cli, refused, tmp_path):
    path = write(tmp_path, TURBO + PROMPTS + '[output]\nname = "{index}-{seed}"\n')
    out = tmp_path / "out" / "job"
    cli("run", path)
    before = pictures(out)
    assert "0-0.png' is there and is not the picture of prompt 'a blue star'" in refused(
        "run", write(tmp_path, path.read_text().replace("a red circle", "a blue star"))
    )
    assert pictures(out) == before


def test_scores_of_a_sampler_are_in_the_manifest(cli, tmp_path):
    text = TURBO + PROMPTS.replace('"0-2"', "[0]") + '[sampler]\nname = "best-of-2"\n'
    assert cli("run", write(tmp_path, text))[0] == 0
    for line in lines(tmp_path / "out" / "job"):
        assert line["evaluations"] == 2 and 0 < line["score"] < 1
        sampler = read(tmp_path / "out" / "job" / line["file"])["methods"][-1]
        assert (sampler["name"], sampler["n"], sampler["rewards"][0]["name"]) == (
            "best-of-n",
            2,
            "shapes-clip",
        )


def test_the_report_of_methods_is_with_the_first_picture(cli, tmp_path):
    text = '[model]\nname = "shapes-sd"\n[call]\nnum_inference_steps = 2\n[[method]]\nname = "softpag"\n'
    assert cli("run", write(tmp_path, text + PROMPTS.replace('"0-2"', "[0]")))[0] == 0
    first, second = lines(tmp_path / "out" / "job")
    assert first["report"]["methods"][0]["name"] == "softpag" and "report" not in second


def test_a_picture_of_one_colour_is_flagged(cli, monkeypatch, tmp_path):
    original = Checkpoint.read

    def grey(*args, **kwargs):
        pipe = original(*args, **kwargs)
        for value in pipe.vae.decoder.conv_out.parameters():
            value.data.zero_()
        return pipe

    monkeypatch.setattr(Checkpoint, "read", grey)
    code, _, err = cli("run", write(tmp_path, TURBO + PROMPTS.replace('"0-2"', "[0]")))
    out = tmp_path / "out" / "job"
    assert [line["flags"] for line in lines(out)] == [["constant"]] * 2
    assert code == 0 and err.count("looks wrong: constant") == 2
    assert (out / "index.html").read_text().count("looks wrong: constant") == 2


@pytest.fixture(autouse=True)
def signals_are_heard():
    """Let signals act as in a terminal; a shell that runs tests in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def in_the_second(act):
    """Return a fault that acts while the second picture is made."""
    count = [0]

    def when(latents, rows):
        count[0] += 1
        if count[0] == 2:
            act()

    return when


@pytest.mark.parametrize("times, made", [(1, 2), (2, 1)])
def test_one_signal_ends_a_job_after_the_current_picture_and_two_at_once(cli, broken, tmp_path, times, made):
    broken(range(9), in_the_second(lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(times)]))
    path, out = write(tmp_path), tmp_path / "out" / "job"
    code, _, err = cli("run", path)
    assert code == 130 and "stopp" in err and len(pictures(out)) == len(lines(out)) == made
    assert f"{made} of 6 images are finished" in (out / "index.html").read_text()


def test_a_folder_that_is_removed_is_one_sentence(refused, broken, tmp_path):
    path, out = write(tmp_path), tmp_path / "out" / "job"
    broken(range(9), in_the_second(lambda: shutil.rmtree(out)))
    assert "was removed while the command ran" in refused("run", path)
    assert not out.exists()


def test_a_full_disk_is_one_sentence_and_loses_nothing(cli, broken, tmp_path):
    path, out = write(tmp_path), tmp_path / "out" / "job"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))  # noqa: E731
    broken(range(9), in_the_second(full))
    try:
        code, _, err = cli("run", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and err.count("\n") == 1 and "files written before it are complete" in err
    assert len(pictures(out)) == 1 and not list(out.glob(".*"))
    assert "6 of 6 images are finished, 5 now, 1 before" in cli("run", path)[1]


def test_a_line_that_was_cut_short_is_skipped(cli, tmp_path):
    path, out = write(tmp_path), tmp_path / "out" / "job"
    cli("run", path)
    (manifest,) = (out / "manifest").glob("*.jsonl")
    data = manifest.read_bytes()
    manifest.write_bytes(data[:-200])
    assert "1 now, 5 before" in cli("run", path)[1]
    *_, torn, last = manifest.read_text().splitlines()
    with pytest.raises(ValueError):
        json.loads(torn)
    assert json.loads(last)["status"] == "done" and "0 now, 6 before" in cli("run", path)[1]


def test_a_terminal_sees_a_bar_and_the_pictures_are_made(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code, said, err = cli("run", write(tmp_path))
    assert code == 0 and "6 of 6 images are finished" in said, err
    assert "of 6 images" in err, "the bar"


@pytest.mark.parametrize("key", ["prompt", "output_type", "generator", "num_images_per_prompt", "kwargs"])
def test_arguments_of_a_single_picture_are_no_settings(cli, tmp_path, key):
    code, _, err = cli("run", write(tmp_path, f"{TURBO}[call]\n{key} = 2\n{PROMPTS}"))
    assert code == 2 and f"'{key}'" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "text", ['{"id": "1", "status": "done"}', '{"id": "1", "status": "failed"}', "[]", "7"]
)
def test_a_line_that_lacks_what_readers_need_is_skipped(cli, tmp_path, text):
    path, out = write(tmp_path, TURBO + '[prompts]\ntexts = ["a red circle"]\n'), tmp_path / "out" / "job"
    (out / "manifest").mkdir(parents=True)
    (out / "manifest" / "other.jsonl").write_text(text + "\n")
    assert "1 of 1 images are finished, 1 now" in cli("run", path)[1]
