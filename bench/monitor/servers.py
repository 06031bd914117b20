"""Runs the server's own test over simulated rows, one server at a time.

Every server has a seed of its own, by its scenario and number: results do not depend on how the work is
divided among processes.
"""

import zlib
from collections.abc import Iterator

import numpy as np

from bench.monitor.record import Ended, StakesResult
from bench.monitor.scenarios import Scenario
from serving.monitor import agreement
from serving.monitor.agreement import LONE_CALLER_ROWS, AgreementTest, Power, Verdict

SEED = 0
DELTA = 0.05


def run_server(scenario: Scenario, number: int) -> Ended:
    """Count rows until the certificate is revoked, or all rows are counted."""
    test = AgreementTest(scenario.epsilon, DELTA)
    attacker_rows = 0
    suspected_after: int | None = None
    for place, (row, caller, is_attackers) in enumerate(sampled_rows(scenario, number), start=1):
        counted = max(0, place - scenario.good_rows)
        attacker_rows += is_attackers and counted > 0
        test.count(agreed=row is None, row=row or b"", caller=caller)
        if row is None and place != LONE_CALLER_ROWS:
            continue  # the evidence grows only where a row differs
        verdict = test.verdict
        if verdict is Verdict.BROKEN:
            return Ended(counted, attacker_rows, suspected_after)
        if verdict is Verdict.SUSPECTED and suspected_after is None:
            suspected_after = counted
    return Ended(None, attacker_rows, suspected_after)


def sampled_rows(scenario: Scenario, number: int) -> Iterator[tuple[bytes | None, str, bool]]:
    """Yield a server's rows: the bytes of one that differs, else None; its caller; if it is an attack."""
    label = f"{scenario.table}/{scenario.name}/{scenario.epsilon}/{scenario.risk}"
    generator = np.random.default_rng([SEED, zlib.crc32(label.encode()), number])
    sources = scenario.sources
    rows = scenario.good_rows + scenario.rows
    runs = -(-rows // scenario.run_rows)
    source_R = generator.choice(len(sources), size=runs, p=[source.share for source in sources])
    first_S = np.array([source.callers.start for source in sources])
    callers_S = np.array([len(source.callers) for source in sources])
    caller_R = first_S[source_R] + generator.integers(callers_S[source_R])
    source_N, caller_N = (each.repeat(scenario.run_rows)[:rows] for each in (source_R, caller_R))
    risk_N = np.array([source.risk for source in sources])[source_N]
    risk_N[: scenario.good_rows] = scenario.epsilon / 2
    differs_N = generator.random(rows) < risk_N
    names = [str(caller) for caller in range(int(caller_N.max()) + 1)]
    rows_of_sources = zip(differs_N.tolist(), source_N.tolist(), caller_N.tolist(), strict=True)
    for place, (differs, source, caller) in enumerate(rows_of_sources):
        pictures = sources[source].pictures
        picture = place if pictures is None else place % pictures
        row = f"{source}/{picture}".encode() if differs else None
        yield row, names[caller], sources[source].is_attacker


def run_stakes(largest: float, epsilon: float, risk: float, rows: int, servers: int) -> StakesResult:
    """Simulate a test whose grid of stakes ends elsewhere, on independent rows of one caller."""
    stakes = agreement.STAKES
    agreement.STAKES = np.geomspace(stakes[0], largest, len(stakes))
    try:
        power = Power.of(epsilon, DELTA, risk, rows, servers=servers, seed=SEED)
    finally:
        agreement.STAKES = stakes
    return StakesResult(
        largest=largest,
        epsilon=epsilon,
        risk=risk,
        revoked=int((power.revoked_after <= rows).sum()),
        median_rows=power.rows_for(0.5),
    )
