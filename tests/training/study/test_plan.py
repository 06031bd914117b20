"""The plan of a study, and invalid study files."""

from pathlib import Path

import pytest

from training.errors import RecipeError
from training.study.conduct import seconds_of_networks
from training.study.plan import Study, best_rules, built_in_studies, load_study


def test_the_built_in_study_is_the_published_one() -> None:
    study = load_study("fashion-mnist")
    assert study.rules == ("kd", "ban", "ban+l", "cwtm", "dkpp")
    assert (study.seeds, study.repeated_rules, study.generations) == ((0, 1, 2), 2, 3)
    assert study.recipe.schedule.epochs <= 15


def test_lines_of_a_seed_share_its_generation_0(study: Study) -> None:
    first = study.first_recipe(1)
    assert (first.seed, first.generations.count) == (1, 1)
    line = study.line_recipe("dkpp", 1)
    assert (line.seed, line.generations.count, line.generations.rule) == (1, 3, "dkpp")
    assert line.model_copy(update={"generations": first.generations}) == first


def test_every_network_is_counted_in_the_order_of_training(study: Study) -> None:
    seconds = seconds_of_networks(study)
    assert len(seconds) == study.firsts + study.successors == 2 + (3 + 1) * 2
    assert all(each > 0 for each in seconds)


def test_the_repeated_rules_have_the_most_correct_tune_rows(study: Study) -> None:
    two = study.model_copy(update={"repeated_rules": 2})
    assert best_rules(two, [5, 9, 7]) == ("ban", "dkpp")
    assert best_rules(two, [7, 7, 7]) == ("kd", "ban")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        (
            'rules = ["kd"',
            'rules = ["kt"',
            "rules.0: expected 'kd', 'ban', 'ban+l', 'cwtm' or 'dkpp', got 'kt'",
        ),
        ('"dkpp"]', '"ban"]', "rules: expected each once, got ['kd', 'ban', 'ban']"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "seeds: expected each once, got [1, 1]"),
        ("seeds = [0, 1]", "seeds = []", "seeds: "),
        ("repeated_rules = 1", "repeated_rules = 4", "repeated_rules: expected at most 3, got 4"),
        ("count = 3", "count = 1", "recipe.generations.count: expected at least 2, got 1"),
        (
            "epsilon = 0.3",
            'epsilon = 0.3\ncertified_by = "harm"',
            "recipe.operating_points.fast.certified_by: expected 'disagreement', because a study compares",
        ),
        (
            'train = "joint"',
            'train = "frozen"',
            "recipe.exits.train: expected 'joint', 'frozen-heads' or 'frozen-then-joint', because a study "
            "compares",
        ),
        (
            "repeated_rules = 1",
            "repeated_rules = 1\nrepeats = 1",
            "repeats: unknown key, known: description, rules, seeds",
        ),
        ("threads = 1", "thread = 1", "recipe.thread: unknown key, known: description, model, seed"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(
    study_file: Path, tmp_path: Path, before: str, after: str, complaint: str
) -> None:
    text = study_file.read_text()
    assert before in text
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text.replace(before, after, 1))
    with pytest.raises(RecipeError) as caught:
        load_study(str(wrong))
    assert "\n" not in str(caught.value)
    assert complaint in str(caught.value)
    assert str(wrong) in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=rf"\({', '.join(built_in_studies())}\)"):
        load_study("fashion")
