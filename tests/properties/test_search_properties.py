"""Searches among the subnets of random generators: within the budget, repeatable, and exact when carved."""

from hypothesis import assume, given
from hypothesis import strategies as st

from gansdk.channels.carve import carve
from gansdk.channels.cost import CostModel
from gansdk.errors import NothingPruned
from gansdk.testing.oracles import measured_macs, measured_params
from gansdk.testing.strategies import DETERMINISTIC, Carving, carvings, example
from gansdk_pruners.evolution import Evolution, evolve
from gansdk_pruners.subnets import Subnets, positions_of


@DETERMINISTIC
@given(carvings(), st.floats(0, 1), st.integers(0, 99))
def test_evolution_over_a_random_generator_stays_within_the_budget_and_repeats_itself(
    case: Carving, share: float, seed: int
):
    assume(case.space.prunable)
    try:
        subnets = Subnets(case.space, positions_of(case.space, shares=(0.67, 0.34), multiple_of=1))
    except NothingPruned:
        assume(False)
    cost = CostModel(case.space).cost
    least, full = (cost(subnets.plan(config)).macs for config in (subnets.smallest, subnets.largest))
    limit = least + share * (full - least)

    def searched():
        scores = {}
        generations = evolve(
            subnets.choices,
            lambda config: cost(subnets.plan(config)).macs <= limit,
            scores,
            settings=Evolution(population=4, iterations=2),
            seed=seed,
        )
        for population in generations:
            scores.update({config: sum((i + 1) * width for i, width in enumerate(config)) % 7 for config in population})
        return scores

    scores = searched()
    assert scores == searched()
    for config in scores:
        subnets.plan(config).check(case.space)
    best = subnets.plan(min(scores, key=lambda config: (scores[config], config)))
    carved = carve(case.module, case.space, best)
    assert measured_macs(carved, example(batch=1)) == cost(best).macs <= limit
    assert measured_params(carved) == cost(best).params
