import json

from diffusers_ext.training.log import Log


def test_log_lines_are_json(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write(step=1, loss=0.123456789)
    log.write(step=2, exact={"counting": 0.5})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert (lines[0]["loss"], lines[1]["exact"], lines[1]["step"]) == (0.123457, {"counting": 0.5}, 2)


def test_a_log_goes_back_to_a_step(tmp_path):
    """A crash leaves lines past the checkpoint, half a line, and with older code two lines joined."""
    log = Log(tmp_path / "log.jsonl")
    assert log.read() == []
    for step in range(1, 6):
        log.write(step=step, loss=0.5)
    text = log.path.read_text()
    log.path.write_text(text + '{"step": 4, "exa' + '{"step": 4, "exact": {}}\n' + '{"step": 6, "lo')
    log.rewind(4)
    assert log.path.read_text() == "".join(text.splitlines(keepends=True)[:4])
    log.write(step=5, loss=0.25)
    assert [line["step"] for line in log.read()] == [1, 2, 3, 4, 5]
    log.rewind(0)
    assert log.path.read_text() == "" and len(list(tmp_path.iterdir())) == 1
