import pytest

from training.errors import RecipeError
from training.exits.goals import BudgetGoal, Goal, OperatingPointSection
from training.retarget.point_changes import PointChanges

BALANCED = OperatingPointSection(max_accuracy_loss=0.003, epsilon=0.01, delta=0.1, certified_by="harm")
CHEAP = BudgetGoal(budget=0.2, epsilon=0.05, delta=0.1)
KNOWN: dict[str, Goal] = {"balanced": BALANCED, "cheap": CHEAP}


@pytest.mark.parametrize(
    ("changes", "goal"),
    [
        (PointChanges(epsilon=0.005), BALANCED.model_copy(update={"epsilon": 0.005})),
        (
            PointChanges(certified_by="disagreement"),
            BALANCED.model_copy(update={"certified_by": "disagreement"}),
        ),
        (PointChanges(max_accuracy_loss=0.0), BALANCED.model_copy(update={"max_accuracy_loss": 0.0})),
        (PointChanges(delta=0.01), BALANCED.model_copy(update={"delta": 0.01})),
        (PointChanges("cheap", delta=0.01), CHEAP.model_copy(update={"delta": 0.01})),
        (PointChanges("cheap", certified_by="harm"), CHEAP.model_copy(update={"certified_by": "harm"})),
    ],
)
def test_values_that_are_not_changed_are_kept(changes: PointChanges, goal: Goal) -> None:
    assert changes.goal(KNOWN, may_repeat=False) == goal


@pytest.mark.parametrize("budget", [0.3, CHEAP.budget])
def test_a_budget_without_an_epsilon_has_the_smallest_possible_epsilon(
    budget: float,
) -> None:
    without_epsilon, with_epsilon = (
        PointChanges("cheap", budget=budget),
        PointChanges("cheap", budget=budget, epsilon=0.1),
    )

    assert without_epsilon.goal(KNOWN, may_repeat=False) == CHEAP.model_copy(
        update={"budget": budget, "epsilon": None}
    )
    assert with_epsilon.goal(KNOWN, may_repeat=False) == CHEAP.model_copy(
        update={"budget": budget, "epsilon": 0.1}
    )


def test_no_epsilon_is_needed_without_a_certificate() -> None:
    wild = PointChanges("wild", max_accuracy_loss=0.1, certified_by="nothing").goal(KNOWN, may_repeat=False)

    assert wild == OperatingPointSection(max_accuracy_loss=0.1, certified_by="nothing")
    with pytest.raises(RecipeError, match=r"^--epsilon: expected a value, got none$"):
        PointChanges("wild", certified_by="harm").goal({"wild": wild}, may_repeat=False)


def test_another_kind_of_target_does_not_keep_the_epsilon() -> None:
    assert PointChanges(budget=0.2).goal(KNOWN, may_repeat=False) == BudgetGoal(
        budget=0.2, epsilon=None, delta=0.1, certified_by="harm"
    )
    with pytest.raises(RecipeError, match=r"^--epsilon: expected a value, got none$"):
        PointChanges("cheap", max_accuracy_loss=0.1).goal(KNOWN, may_repeat=False)


def test_a_new_point_has_the_default_delta_and_risk() -> None:
    assert PointChanges("night", max_accuracy_loss=0.1, epsilon=0.1).goal(
        KNOWN, may_repeat=False
    ) == OperatingPointSection(max_accuracy_loss=0.1, epsilon=0.1, delta=0.05, certified_by="disagreement")
    assert PointChanges("night", budget=0.1).goal(KNOWN, may_repeat=False) == BudgetGoal(budget=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            PointChanges("exact", epsilon=0.1),
            "--point: expected 1 to 64 letters, .*, and not exact or custom, got 'exact'",
        ),
        (PointChanges("custom", epsilon=0.1), "--point: .* got 'custom'"),
        (PointChanges("../up", epsilon=0.1), "--point: .* got '../up'"),
        (PointChanges("", epsilon=0.1), "--point: .* got ''"),
        (PointChanges("a" * 65, epsilon=0.1), "--point: "),
        (
            PointChanges("night", epsilon=0.1),
            "--point: .* 'night', got neither; known points: balanced, cheap",
        ),
        (PointChanges(max_accuracy_loss=0.1, budget=0.2), "--budget: .* got both: 0.2 and 0.1"),
        (PointChanges(), "operating point 'balanced': expected another goal, got the current one"),
        (
            PointChanges(epsilon=0.01),
            "operating point 'balanced': expected another goal, got the current one",
        ),
        (PointChanges(epsilon=0.0), "--epsilon: expected greater than 0, got 0.0"),
        (PointChanges(epsilon=1.0), "--epsilon: expected less than 1, got 1.0"),
        (PointChanges(epsilon=float("nan")), "--epsilon: expected a finite number, got nan"),
        (PointChanges(delta=-1.0), "--delta: expected greater than 0, got -1.0"),
        (PointChanges(delta=float("inf")), "--delta: expected a finite number, got inf"),
        (
            PointChanges(max_accuracy_loss=1.1),
            "--max-accuracy-loss: expected less than or equal to 1, got 1.1",
        ),
        (PointChanges(budget=float("nan")), "--budget: expected a finite number, got nan"),
        (
            PointChanges(certified_by="luck"),
            "--certified-by: expected 'disagreement', .*, got 'luck'",
        ),
    ],
)
def test_an_impossible_change_is_refused_by_its_option_with_both_values(
    changes: PointChanges, message: str
) -> None:
    with pytest.raises(RecipeError, match=rf"^{message}") as caught:
        changes.goal(KNOWN, may_repeat=False)
    assert "\n" not in str(caught.value)


def test_the_same_goal_is_allowed_on_new_data() -> None:
    assert PointChanges().goal(KNOWN, may_repeat=True) == BALANCED


def test_given_has_the_given_options() -> None:
    assert PointChanges("night", budget=0.2).given == {"point": "night", "budget": 0.2}
