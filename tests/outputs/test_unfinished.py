from diffusers_ext.outputs.unfinished import Unfinished

RECORD = {"prompt": "a", "call": {"steps": 3}}


def test_a_run_that_ended_is_forgotten(tmp_path):
    with Unfinished(tmp_path, RECORD, 3, 11) as run:
        assert (run.seed, run.found) == (11, False) and len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_did_not_end_is_found_by_the_same_command_alone(tmp_path):
    try:
        with Unfinished(tmp_path, RECORD, 3, 11):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    for record, count in ((RECORD, 4), (RECORD | {"prompt": "b"}, 3)):
        with Unfinished(tmp_path, record, count, 12) as run:
            assert (run.seed, run.found) == (12, False)
    with Unfinished(tmp_path, RECORD, 3, 12) as run:
        assert (run.seed, run.found) == (11, True)
        with Unfinished(tmp_path, RECORD, 3, 13) as beside:
            assert (beside.seed, beside.found) == (13, False), "the other still goes on"
        run.keep()
    with Unfinished(tmp_path, RECORD, 3, 14) as run:
        assert run.seed == 11
    assert not list(tmp_path.iterdir())
