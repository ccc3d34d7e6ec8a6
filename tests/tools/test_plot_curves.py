"""`visionsparse plot-curves`."""

import json

import pytest

from visionsparse import cli
from visionsparse.tools import plot_curves


@pytest.mark.parametrize("out", [None, "elsewhere/c.png"])
def test_it_writes_the_picture_and_says_where(tmp_path, capsys, out):
    scalars = tmp_path / "20260101_000000" / "vis_data" / "scalars.json"
    scalars.parent.mkdir(parents=True)
    scalars.write_text("".join(json.dumps({"loss": 1.0, "lr": 1e-3, "step": step}) + "\n" for step in (1, 2)))

    plot_curves.main([str(tmp_path), *(["--out", str(tmp_path / out)] if out else [])])

    picture = tmp_path / (out or "curves.png")
    assert picture.is_file()
    assert capsys.readouterr().out == f"curves: {picture}\n"


def test_a_folder_without_a_run_is_one_line_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(plot_curves.main, [str(tmp_path)])

    assert caught.value.code == 2
    assert "no training numbers in it" in capsys.readouterr().err
