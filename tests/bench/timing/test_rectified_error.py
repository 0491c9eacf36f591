"""Test that the committed errors of rectified attention are what the script computes."""

from bench.ledger import committed
from bench.timing import rectified_error


def test_a_row_of_the_committed_table_is_computed_again(monkeypatch, tmp_path):
    for name, value in {"KEEP": (0.2,), "NOISE": (0.3,), "LOGITS": (1.0,)}.items():
        monkeypatch.setattr(rectified_error, name, value)
    (row,) = rectified_error.main(["--only", "video", "--out", str(tmp_path)])
    (wanted,) = [
        r
        for r in committed("rectified_error")["rows"]
        if (r["grid"], r["noise"], r["logits"], r["keep"]) == ("video", 0.3, 1, 0.2)
    ]
    assert row["check"] == wanted["check"] == "all kept = dense"
    for name in ("density", "sparse_error", "rectified_error", "gain"):
        assert abs(row[name] - wanted[name]) < 2e-3
    assert row["rectified_error"] < row["sparse_error"]
