from itertools import pairwise, product

import pytest
import torch

from lightning_rl.environments import TEST_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS, Purpose, TrainingSeeds, generator


def test_training_validation_and_test_seeds_are_disjoint() -> None:
    ranges = sorted((TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS), key=lambda seeds: seeds.start)
    assert all(len(seeds) >= 1_000_000 and seeds.step == 1 for seeds in ranges)
    assert all(before.stop <= after.start for before, after in pairwise(ranges))


@pytest.mark.parametrize("run_seed", [0, 42, 2**32 - 1])
def test_training_episodes_have_training_seeds(run_seed: int) -> None:
    seeds = TrainingSeeds(run_seed, rank=3)
    assert all(seeds(environment, episode) in TRAINING_SEEDS for environment, episode in product(range(4), range(100)))


def test_seed_differs_with_run_rank_environment_and_episode() -> None:
    places = list(product((0, 1, 2**32 - 1), range(3), range(5), range(20)))
    drawn = {TrainingSeeds(run_seed, rank)(environment, episode) for run_seed, rank, environment, episode in places}
    assert len(drawn) == len(places) == 900  # by chance two of 900 would meet once in 2,600 times


def test_seed_is_the_same_whenever_it_is_asked_for() -> None:
    asked = TrainingSeeds(7, 1)
    first = [asked(environment, episode) for environment, episode in product(range(3), range(3))]
    again = TrainingSeeds(7, 1)
    backwards = [again(environment, episode) for environment, episode in reversed(list(product(range(3), range(3))))]
    assert first == backwards[::-1]


def test_streams_differ_with_run_rank_and_purpose() -> None:
    streams = [
        generator(run_seed, rank, purpose) for run_seed, rank, purpose in product((0, 1, 2**32 - 1), range(3), Purpose)
    ]
    first_numbers = {tuple(torch.rand(4, generator=stream).tolist()) for stream in streams}
    assert len(first_numbers) == len(streams) == 9 * len(Purpose)


def test_stream_is_the_same_for_the_same_arguments_and_the_callers_own() -> None:
    first = torch.rand(8, generator=generator(7, 1, Purpose.REPLAY))
    torch.manual_seed(0)
    other = generator(7, 1, Purpose.REPLAY)
    before = torch.random.get_rng_state()
    assert torch.equal(torch.rand(8, generator=other), first)
    assert torch.equal(torch.random.get_rng_state(), before)
