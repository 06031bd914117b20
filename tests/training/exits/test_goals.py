import re

import numpy as np
import pytest
from pydantic import ValidationError

from serving.repository.manifest import Risk
from tests.training.exits.candidates import candidate_with
from tests.training.exits.split_of_readings import COST, sampled_readings
from training.errors import RecipeError
from training.exits.certify import METHOD, METHOD_OF_ONE_CANDIDATE, fewest_rows
from training.exits.evaluate import Readings
from training.exits.goals import BudgetGoal, Goal, OperatingPointSection, check_certify_rows
from training.exits.thresholds import Candidate, pareto_path, safest_within, target_candidate

PATH = pareto_path(sampled_readings(0, 600), COST)
CERTIFY_SPLIT = sampled_readings(1, 600)
ALL_AT_ONCE = (candidate_with((None, None), 0.0, 0.0, 1.0), candidate_with((0.0, 0.0), 0.4, 0.5, 0.1))


def never_agreeing() -> Readings:
    """Return the certify split with early labels that never agree with the final ones."""
    return Readings(
        CERTIFY_SPLIT.confidence_EN,
        np.stack([*(CERTIFY_SPLIT.label_EN[:-1] * 0 + 4), CERTIFY_SPLIT.label_EN[-1]]),
        CERTIFY_SPLIT.truth_N,
    )


@pytest.mark.parametrize("risk", list(Risk))
def test_an_accuracy_goal_is_certified_by_its_risk(risk: Risk) -> None:
    goal = OperatingPointSection(max_accuracy_loss=0.05, epsilon=0.2, certified_by=risk.value)

    reached = goal.reach(PATH, CERTIFY_SPLIT, COST)

    assert reached.certificate is not None
    assert (reached.certificate.risk, reached.certificate.method) == (risk, METHOD)
    assert reached.candidate.tune.multiply_adds_share >= target_candidate(PATH, 0.05).tune.multiply_adds_share


@pytest.mark.parametrize("risk", list(Risk))
def test_a_budget_chooses_the_safest_candidate_and_certifies_its_smallest_epsilon(
    risk: Risk,
) -> None:
    reached = BudgetGoal(budget=0.5, certified_by=risk.value).reach(PATH, CERTIFY_SPLIT, COST)

    assert reached.candidate == safest_within(PATH, 0.5, risk)
    assert reached.certificate is not None
    assert (reached.certificate.risk, reached.certificate.method) == (risk, METHOD_OF_ONE_CANDIDATE)
    assert reached.certificate.epsilon > reached.tested[0].outcome.losses(risk) / 600


def test_a_budget_without_a_certificate_is_refused_with_the_epsilon_that_would_pass() -> None:
    with pytest.raises(
        RecipeError, match=r"budget 0.5: expected .* at most 0.001, got .* certifies 0\.\d+"
    ) as caught:
        BudgetGoal(budget=0.5, epsilon=0.001).reach(PATH, CERTIFY_SPLIT, COST)

    stated = re.search(r"certifies (0\.\d+)", str(caught.value))
    assert stated is not None
    assert BudgetGoal(budget=0.5, epsilon=float(stated[1])).reach(PATH, CERTIFY_SPLIT, COST).certificate


@pytest.mark.parametrize(
    ("epsilon", "bound"), [(None, "at any epsilon"), (0.5, "at most 0.5")], ids=["any", "one"]
)
def test_a_budget_that_loses_every_certify_row_is_refused(epsilon: float | None, bound: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"certify disagreement {bound}, got 600 of 600 certify rows .* certifies nothing$"
    ):
        BudgetGoal(budget=0.1, epsilon=epsilon).reach(ALL_AT_ONCE, never_agreeing(), COST)


@pytest.mark.parametrize(
    ("goal", "target"),
    [
        (
            OperatingPointSection(max_accuracy_loss=0.05, epsilon=0.001, certified_by="nothing"),
            target_candidate(PATH, 0.05),
        ),
        (
            OperatingPointSection(max_accuracy_loss=0.05, certified_by="nothing"),
            target_candidate(PATH, 0.05),
        ),
        (BudgetGoal(budget=0.5, certified_by="nothing"), safest_within(PATH, 0.5, Risk.DISAGREEMENT)),
    ],
)
def test_certified_by_nothing_publishes_the_target(goal: Goal, target: Candidate) -> None:
    reached = goal.reach(PATH, CERTIFY_SPLIT, COST)

    assert (reached.candidate, reached.certificate, reached.tested) == (target, None, ())
    assert reached.is_uncertified


@pytest.mark.parametrize("risk", list(Risk))
def test_a_certified_accuracy_goal_requires_an_epsilon(risk: Risk) -> None:
    with pytest.raises(ValidationError, match="epsilon: expected a value, got none"):
        OperatingPointSection(max_accuracy_loss=0.05, certified_by=risk.value)


def test_a_goal_that_certifies_nothing_faster_gives_full_depth() -> None:
    reached = OperatingPointSection(max_accuracy_loss=0.05, epsilon=0.001).reach(PATH, never_agreeing(), COST)

    assert reached.candidate.is_exact
    assert not reached.is_uncertified


def test_the_safest_candidate_within_a_budget_has_the_least_of_the_given_risk() -> None:
    exact = candidate_with((None,), 0.0, 0.0, 1.0)
    differs = candidate_with((0.8,), 0.0, 0.02, 0.5, harm=0.001)
    harms = candidate_with((0.7,), 0.0, 0.01, 0.5, harm=0.002)
    cheaper = candidate_with((0.6,), 0.0, 0.02, 0.4, harm=0.001)
    dear = candidate_with((0.9,), 0.0, 0.0, 0.6, harm=0.0)
    path = [exact, dear, differs, harms, cheaper]

    assert safest_within(path, 0.5, Risk.DISAGREEMENT) == harms
    assert safest_within(path, 0.5, Risk.HARM) == differs, "the costlier of two with equal harm"
    assert safest_within(path, 0.4, Risk.HARM) == cheaper
    assert safest_within(path, 1.0, Risk.HARM) == dear
    with pytest.raises(RecipeError, match=r"budget: expected at least 0\.4000 .* got 0\.39"):
        safest_within(path, 0.39, Risk.HARM)
    with pytest.raises(RecipeError, match=r"budget: expected at least 1\.0000 .* got 1\.0"):
        safest_within([exact], 1.0, Risk.HARM)


def test_the_smallest_budget_in_the_error_is_rounded_up_so_that_it_succeeds() -> None:
    path = [candidate_with((None,), 0.0, 0.0, 1.0), candidate_with((0.8,), 0.0, 0.02, 0.019_547)]

    with pytest.raises(RecipeError, match=r"at least 0\.0196 .*, got 0\.0195$"):
        safest_within(path, 0.0195, Risk.HARM)
    assert safest_within(path, 0.0196, Risk.HARM) == path[1]


def test_a_certify_split_too_small_for_an_epsilon_is_refused_with_the_required_rows() -> None:
    goals: dict[str, Goal] = {"mine": OperatingPointSection(max_accuracy_loss=0.1, epsilon=0.01)}

    check_certify_rows(goals, fewest_rows(0.01, 0.05))
    with pytest.raises(RecipeError, match=r"'mine': epsilon 0.01 at delta 0.05: .* 299 rows, got 298"):
        check_certify_rows(goals, 298)


@pytest.mark.parametrize(
    "goal",
    [
        OperatingPointSection(max_accuracy_loss=0.1, epsilon=0.01, certified_by="nothing"),
        BudgetGoal(budget=0.5),
        BudgetGoal(budget=0.5, epsilon=0.01, certified_by="nothing"),
    ],
)
def test_without_an_epsilon_any_certify_split_is_large_enough(goal: Goal) -> None:
    check_certify_rows({"mine": goal}, 1)
