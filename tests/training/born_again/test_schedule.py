import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from training.born_again.schedule import one_cycle


def test_the_cycle_matches_pytorchs() -> None:
    # PyTorch counts the end of the warm-up differently by one step. Both reach the peak at step 20.
    steps = 101
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = OneCycleLR(optimizer, max_lr=0.5, total_steps=steps, pct_start=21 / steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            reference.step()
    ours = [one_cycle(step, steps, peak=0.5, warm_up_share=0.2) for step in range(steps)]
    assert ours == pytest.approx(rates, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("warm_up_share", [0.0, 0.2, 1.0])
def test_any_number_of_steps_has_rates_up_to_the_peak(steps: int, warm_up_share: float) -> None:
    rates = [one_cycle(step, steps, peak=0.5, warm_up_share=warm_up_share) for step in range(steps)]
    assert all(0 < rate <= 0.5 for rate in rates)
