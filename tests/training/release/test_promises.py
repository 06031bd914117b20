"""What is promised, in words: the risk by its name, and what it is not."""

from collections.abc import Mapping

import pytest

from serving.repository.manifest import Certificate, OperatingPoint, Risk
from tests.training.exits.candidates import candidate_with
from training.exits.certify import CandidateResult, CertifiedThresholds
from training.exits.evaluate import EvaluationCounts
from training.exits.goals import BudgetGoal, Goal, OperatingPointSection
from training.release import promises

NBSP = "\N{NO-BREAK SPACE}"
EXACT = candidate_with((None,), 0.0, 0.0, 1.0)
FASTER = candidate_with((0.9,), 0.0, 0.01, 0.5, harm=0.004)
PROMISE = Certificate(epsilon=0.02, delta=0.05, n=1_000, disagreements=9, method="by hand", harms=4)
BY_HARM = PROMISE.model_copy(update={"risk": Risk.HARM})
GOAL = OperatingPointSection(max_accuracy_loss=0.01, epsilon=0.02)
# Of 1,000 rows 8 are wrong early and right at full depth, and 15 differ.
SEEN = EvaluationCounts(
    n=1_000,
    correct=900,
    final_correct=905,
    gained=3,
    disagreements=15,
    exit_counts=(500, 500),
    multiply_adds_share=0.5,
)


def test_a_certificate_by_disagreement_promises_agreement_and_says_that_this_is_not_correctness() -> None:
    said = promises.of_point(GOAL, CertifiedThresholds(FASTER, PROMISE, ()))

    assert said == (
        f"On data like the certify split, at most 2{NBSP}% of answers differ from the full network's, "
        f"with 95{NBSP}% confidence. It promises agreement, not correctness. "
        "Seen: 9 of 1,000 certify rows differ; 12 were allowed."
    )


def test_a_certificate_by_harm_promises_that_and_no_more() -> None:
    said = promises.of_point(GOAL, CertifiedThresholds(FASTER, BY_HARM, ()))

    assert said == (
        f"On data like the certify split, at most 2{NBSP}% of answers are wrong where the full network's is "
        f"right, with 95{NBSP}% confidence. It promises that leaving early seldom spoils a right answer, "
        "not that answers are right. "
        "Seen: 4 of 1,000 certify rows are wrong where the full network is right; 12 were allowed."
    )


def test_full_depth_needs_no_promise() -> None:
    assert promises.of_point(None, None) == (
        "Every row goes to the final exit: the answer is the full network's by definition."
    )


def test_a_point_without_a_promise_says_loudly_that_it_has_none() -> None:
    goal = OperatingPointSection(max_accuracy_loss=0.01, epsilon=0.02, certified_by="nothing")

    said = promises.of_point(goal, CertifiedThresholds(FASTER, None, ()))

    assert said.startswith("Not certified, as its goal asked: nothing is promised of how often")


@pytest.mark.parametrize(
    ("certified_by", "lost"),
    [("disagreement", "15 differ"), ("harm", "8 are wrong where the full network is right")],
)
def test_a_point_that_certified_nothing_faster_says_what_stopped_it(certified_by: str, lost: str) -> None:
    goal = OperatingPointSection.model_validate(
        {"max_accuracy_loss": 0.01, "epsilon": 0.005, "certified_by": certified_by}
    )

    said = promises.of_point(goal, CertifiedThresholds(EXACT, None, (CandidateResult(FASTER, SEEN, 0.9),)))

    assert said.startswith("Certified nothing faster, so it equals exact: of 1,000 certify rows ")
    assert f" {lost} at the safest faster row, where at most 0.5{NBSP}% of answers" in said
    assert said.endswith(f"with 95{NBSP}% confidence allows 1.")


def test_a_path_without_a_faster_row_within_the_target_is_said_to_have_none() -> None:
    nothing = CertifiedThresholds(EXACT, None, ())

    assert promises.of_point(GOAL, nothing).endswith(
        f"no faster row of the path loses at most 1{NBSP}% of accuracy on tune."
    )


def test_a_warning_names_the_points_that_promise_or_save_nothing_and_no_other() -> None:
    goals: Mapping[str, Goal] = {"good": GOAL, "bare": BudgetGoal(budget=0.5), "slow": GOAL}
    points = {
        "exact": CertifiedThresholds(EXACT, None, ()),
        "good": CertifiedThresholds(FASTER, PROMISE, ()),
        "bare": CertifiedThresholds(FASTER, None, ()),
        "slow": CertifiedThresholds(EXACT, None, ()),
    }

    assert list(promises.warnings(points, goals)) == [
        'operating point "bare" is UNCERTIFIED, as asked by certified_by = "nothing"',
        'operating point "slow" equals "exact": nothing faster was certified',
    ]


def test_certificates_together_are_as_sure_as_the_sum_of_their_deltas() -> None:
    assert promises.joint_confidence([PROMISE, BY_HARM]) == (
        f"Each certificate holds alone; the 2 together hold with 90{NBSP}% confidence."
    )
    assert promises.joint_confidence([PROMISE]) == ""


def published(**changes: object) -> OperatingPoint:
    return OperatingPoint(
        thresholds=(0.9,),
        accuracy=0.9,
        disagreement=0.01,
        multiply_adds_share=0.5,
        exit_shares=(0.5, 0.5),
        split="test",
        n=100,
        certificate=PROMISE,
    ).model_copy(update=changes)


def test_a_published_points_promise_is_a_clause() -> None:
    assert promises.in_short(published(certificate=BY_HARM)) == (
        f"certified: at most 2{NBSP}% of answers are wrong where the full network's is right, "
        f"with 95{NBSP}% confidence (4 of 1,000 certify rows)"
    )
    assert promises.in_short(published(certificate=None)) == "UNCERTIFIED"


NOTHING = OperatingPointSection(max_accuracy_loss=0.01, certified_by="nothing")


@pytest.mark.parametrize(
    ("goal", "why"),
    [
        (None, ""),
        (GOAL, ", for nothing faster was certified"),
        (NOTHING, f", for no faster row of the path loses at most 1{NBSP}% of accuracy on tune"),
    ],
)
def test_a_point_that_equals_exact_blames_the_certificate_only_where_one_was_asked_for(
    goal: Goal | None, why: str
) -> None:
    exact = published(certificate=None, thresholds=(None,))

    assert promises.in_short(exact, goal) == f"it equals exact{why}"


def test_a_goal_without_a_promise_that_found_nothing_faster_says_that_of_tune() -> None:
    nothing = CertifiedThresholds(EXACT, None, ())

    assert promises.of_point(NOTHING, nothing) == (
        "Not certified, as its goal asked. It equals exact all the same: "
        f"no faster row of the path loses at most 1{NBSP}% of accuracy on tune."
    )
    assert list(promises.warnings({"wild": nothing}, {"wild": NOTHING})) == [
        'operating point "wild" equals "exact": '
        "no faster row of the path loses at most 1 % of accuracy on tune"
    ]
