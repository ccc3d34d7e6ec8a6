"""`visionsparse list-models`, and that the model cards say what the metafiles say."""

import json
import re

import pytest

from visionsparse import cli
from visionsparse.zoo import SYSTEMS, list_models, variants


def call(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["list-models", *words])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_every_model_has_a_line_with_its_size_and_cost(capsys):
    code, shown, _ = call(capsys)
    assert code == 0
    lines = {line.split()[0]: line for line in shown.splitlines() if line.split()}
    for name, entry in variants().items():
        assert f"{entry.facts['params']:,}" in lines[name]
    assert (
        "13,142,760" in lines["biformer_tiny"]
        and "2.228" in lines["biformer_tiny"]
        and "81.4" in lines["biformer_tiny"]
    )


def test_published_and_measured_results_have_columns_of_their_own(capsys):
    _, shown, _ = call(capsys)
    assert re.search(r"published top-1 % +measured top-1 %", shown)


def test_pattern_and_task_choose(capsys):
    _, shown, _ = call(capsys, "biformer_s*", "--task", "classification", "--json")
    assert [facts["name"] for facts in json.loads(shown)] == list_models("biformer_s*", task="classification")


def test_nothing_found_is_said(capsys):
    assert call(capsys, "nothing*")[:2] == (0, "no model matches 'nothing*'\n")


def test_an_unknown_task_is_one_line_and_exit_code_2(capsys):
    code, _, error = call(capsys, "--task", "clasification")
    assert code == 2
    assert error == "visionsparse: 'clasification' is not a task. Did you mean 'classification'?\n"


@pytest.mark.parametrize("name", variants())
def test_the_card_names_every_variant_with_the_facts_of_the_metafile(name):
    entry = variants()[name]
    card = (SYSTEMS / entry.system / "README.md").read_text()
    (row, *_) = [line for line in card.splitlines() if f"`{name}`" in line]
    published = entry.facts.get("published")
    if row.startswith("|"):
        assert f"{entry.facts['params']:,}" in row
    if published:
        assert f"| {published['top1']} |" in row
        assert f"`{entry.facts['checkpoint']}`" in row
