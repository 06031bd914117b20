"""Sentences on certificates: the certified risk, its bound, and the reason if there is no certificate."""

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
CERTIFICATE = Certificate(epsilon=0.02, delta=0.05, n=1_000, disagreements=9, method="by hand", harms=4)
BY_HARM = CERTIFICATE.model_copy(update={"risk": Risk.HARM})
GOAL = OperatingPointSection(max_accuracy_loss=0.01, epsilon=0.02)
# Of 1,000 rows, 8 are wrong although full depth is right, and 15 differ from full depth.
FAILED = EvaluationCounts(
    n=1_000,
    correct=900,
    final_correct=905,
    gained=3,
    disagreements=15,
    exit_counts=(500, 500),
    multiply_adds_share=0.5,
)


def test_a_certificate_by_disagreement_states_that_it_does_not_bound_errors() -> None:
    text = promises.of_point(GOAL, CertifiedThresholds(FASTER, CERTIFICATE, ()))

    assert text == (
        f"On data like the certify split, at most 2{NBSP}% of answers differ from the full network's, "
        f"with 95{NBSP}% confidence. It does not bound how often answers are wrong. "
        "On the certify split, 9 of 1,000 rows differ; 12 were allowed."
    )


def test_a_certificate_by_harm_states_its_limitation() -> None:
    text = promises.of_point(GOAL, CertifiedThresholds(FASTER, BY_HARM, ()))

    assert text == (
        f"On data like the certify split, at most 2{NBSP}% of answers are wrong where the full network's is "
        f"right, with 95{NBSP}% confidence. It does not bound how often both are wrong. "
        "On the certify split, 4 of 1,000 rows are wrong where the full network is right; 12 were allowed."
    )


def test_full_depth_needs_no_certificate() -> None:
    assert promises.of_point(None, CertifiedThresholds(EXACT, None, ())) == (
        "Every row goes to the final exit, so every answer is the full network's."
    )


def test_a_point_without_a_certificate_states_that_nothing_bounds_its_risk() -> None:
    goal = OperatingPointSection(max_accuracy_loss=0.01, epsilon=0.02, certified_by="nothing")

    text = promises.of_point(goal, CertifiedThresholds(FASTER, None, ()))

    assert text.startswith("Not certified, as its goal requests. Nothing bounds how often")


@pytest.mark.parametrize(
    ("certified_by", "losses", "bound"),
    [
        (
            "disagreement",
            "15 of 1,000 certify rows differ",
            f"at most 0.5{NBSP}% of answers differ from the full network's",
        ),
        (
            "harm",
            "8 of 1,000 certify rows are wrong where the full network is right",
            f"at most 0.5{NBSP}% of answers are wrong where the full network's is right",
        ),
    ],
)
def test_a_point_that_certified_nothing_faster_states_the_failed_test(
    certified_by: str, losses: str, bound: str
) -> None:
    goal = OperatingPointSection.model_validate(
        {"max_accuracy_loss": 0.01, "epsilon": 0.005, "certified_by": certified_by}
    )

    text = promises.of_point(goal, CertifiedThresholds(EXACT, None, (CandidateResult(FASTER, FAILED, 0.9),)))

    assert text == (
        f"Nothing faster was certified, so it equals exact: with the safest thresholds faster than full "
        f"depth, {losses}. The certificate allows 1: {bound}, with 95{NBSP}% confidence."
    )


def test_a_point_without_faster_thresholds_within_its_goal_states_this() -> None:
    nothing = CertifiedThresholds(EXACT, None, ())

    assert promises.of_point(GOAL, nothing).endswith(
        f"on tune, no thresholds faster than full depth lose at most 1{NBSP}% of accuracy."
    )


def test_warnings_name_the_points_that_are_uncertified_or_equal_exact_and_no_others() -> None:
    goals: Mapping[str, Goal] = {"good": GOAL, "bare": BudgetGoal(budget=0.5), "slow": GOAL}
    points = {
        "exact": CertifiedThresholds(EXACT, None, ()),
        "good": CertifiedThresholds(FASTER, CERTIFICATE, ()),
        "bare": CertifiedThresholds(FASTER, None, ()),
        "slow": CertifiedThresholds(EXACT, None, ()),
    }

    assert list(promises.warnings(points, goals)) == [
        'operating point "bare" is UNCERTIFIED, as requested by certified_by = "nothing"',
        'operating point "slow" equals "exact": nothing faster was certified',
    ]


def test_the_joint_confidence_is_1_minus_the_sum_of_the_deltas() -> None:
    assert promises.joint_confidence([CERTIFICATE, BY_HARM]) == (
        f"The confidence is for each certificate. All 2 together hold with 90{NBSP}% confidence."
    )
    assert promises.joint_confidence([CERTIFICATE]) == ""


def published(**changes: object) -> OperatingPoint:
    return OperatingPoint(
        thresholds=(0.9,),
        accuracy=0.9,
        disagreement=0.01,
        multiply_adds_share=0.5,
        exit_shares=(0.5, 0.5),
        split="test",
        n=100,
        certificate=CERTIFICATE,
    ).model_copy(update=changes)


def test_a_published_points_certificate_is_a_clause() -> None:
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
        (GOAL, ": nothing faster was certified"),
        (NOTHING, f": on tune, no thresholds faster than full depth lose at most 1{NBSP}% of accuracy"),
    ],
)
def test_a_point_that_equals_exact_mentions_the_certificate_only_if_its_goal_requests_one(
    goal: Goal | None, why: str
) -> None:
    exact = published(certificate=None, thresholds=(None,))

    assert promises.in_short(exact, goal) == f"it equals exact{why}"


def test_an_uncertified_goal_without_faster_thresholds_mentions_the_tune_split() -> None:
    nothing = CertifiedThresholds(EXACT, None, ())

    assert promises.of_point(NOTHING, nothing) == (
        "Not certified, as its goal requests. It equals exact: "
        f"on tune, no thresholds faster than full depth lose at most 1{NBSP}% of accuracy."
    )
    assert list(promises.warnings({"wild": nothing}, {"wild": NOTHING})) == [
        'operating point "wild" equals "exact": on tune, no thresholds faster than full depth '
        "lose at most 1 % of accuracy"
    ]
