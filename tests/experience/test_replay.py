import io
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rl.experience import ExplorationNoise, ReplayBuffer, Transition

OBSERVATION_SIZE, ACTION_SIZE = 3, 2
RUNNING, TERMINATED, TRUNCATED, BOTH, CUT = range(5)


class Life:
    """Feeds a buffer, and remembers every transition in plain lists.

    Each observation ever made has a number of its own, so that no two can be mistaken for each other.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer
        self.made = 0
        self.rows: list[list[tuple[float, ...]]] = []
        self.observation = self._new()

    def _new(self) -> np.ndarray:
        first = self.made
        self.made += self.buffer.num_envs
        numbers = np.arange(first, self.made, dtype=np.float32)
        return np.repeat(numbers[:, None], OBSERVATION_SIZE, axis=1)

    def step(self, kinds: list[int]) -> None:
        """One step of every environment, each of which goes on or ends; CUT: found lost after the step."""
        kind, n, step = np.array(kinds), self.buffer.num_envs, len(self.rows)
        action = torch.arange(n * ACTION_SIZE).reshape(n, ACTION_SIZE) + 100.0 * step
        reward, reached = np.arange(n, dtype=np.float32) - 10 * step, self._new()
        terminated = np.isin(kind, (TERMINATED, BOTH))
        self.buffer.add(
            self.observation, action, reward, reached, terminated, np.isin(kind, (TERMINATED, TRUNCATED, BOTH))
        )
        self.buffer.cut(kind == CUT)
        row = zip(self.observation[:, 0], action[:, 0].tolist(), reward, reached[:, 0], terminated, strict=True)
        self.rows.append([tuple(map(float, transition)) for transition in row])
        self.observation = np.where((kind == RUNNING)[:, None], reached, self._new())

    def newest(self, capacity: int) -> list[tuple[float, ...]]:
        return sorted(transition for row in self.rows[-(capacity // self.buffer.num_envs) :] for transition in row)


def as_tuples(batch: Transition) -> list[tuple[float, ...]]:
    """Transitions of a life, after a check that all numbers of an observation and of an action belong together."""
    flat = Transition(*(field.flatten(0, 1) for field in batch))
    assert (flat.observation == flat.observation[:, :1]).all()
    assert (flat.next_observation == flat.next_observation[:, :1]).all()
    assert (flat.action[:, 1] == flat.action[:, 0] + 1).all()
    fields = flat.observation[:, 0], flat.action[:, 0], flat.reward, flat.next_observation[:, 0], flat.terminated
    return list(zip(*(field.float().tolist() for field in fields), strict=True))


def everything(buffer: ReplayBuffer) -> list[tuple[float, ...]]:
    """All transitions held: what `sample` returns when each possible draw is made once."""
    with mock.patch.object(torch, "randint", lambda high, size, generator: torch.arange(high)):
        return sorted(as_tuples(buffer.sample(1, buffer.size, torch.Generator())))


def new_buffer(rows: int, num_envs: int) -> ReplayBuffer:
    return ReplayBuffer(rows * num_envs, num_envs, OBSERVATION_SIZE, ACTION_SIZE)


def lived(rows: int, num_envs: int, steps: int, seed: int = 0) -> Life:
    life, random = Life(new_buffer(rows, num_envs)), np.random.default_rng(seed)
    for _ in range(steps):
        life.step(random.choice([RUNNING, TERMINATED, TRUNCATED], num_envs, p=[0.7, 0.15, 0.15]).tolist())
    return life


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(data=st.data(), rows=st.integers(1, 6), num_envs=st.integers(1, 4))
def test_buffer_holds_exactly_the_newest_transitions_with_their_true_next_observations(
    data: st.DataObject, rows: int, num_envs: int
) -> None:
    life = Life(new_buffer(rows, num_envs))
    kinds = st.lists(st.sampled_from([RUNNING, TERMINATED, TRUNCATED, BOTH, CUT]), min_size=num_envs, max_size=num_envs)
    for kind in data.draw(st.lists(kinds, min_size=3 * rows, max_size=4 * rows + 2)):
        life.step(kind)
        assert life.buffer.size == min(len(life.rows), rows) * num_envs
        assert everything(life.buffer) == life.newest(rows * num_envs)


def test_episodes_of_a_single_step_each_keep_their_last_observation() -> None:
    life = Life(new_buffer(5, 3))
    for step in range(23):
        life.step([TERMINATED, TRUNCATED, TERMINATED if step % 2 else TRUNCATED])
        assert everything(life.buffer) == life.newest(15)


def test_many_endings_after_few_are_all_kept() -> None:
    life = Life(new_buffer(8, 2))
    for kind in [RUNNING] * 12 + [TERMINATED] * 12 + [RUNNING] * 12 + [TRUNCATED] * 12:
        life.step([kind, RUNNING])
        assert everything(life.buffer) == life.newest(16)


def test_cut_puts_the_present_observation_aside() -> None:
    buffer = ReplayBuffer(8, 2, 1, 1)
    nothing, no = np.zeros(2, dtype=np.float32), np.zeros(2, dtype=bool)
    buffer.add(np.float32([[1], [2]]), torch.zeros(2, 1), nothing, np.float32([[3], [4]]), no, no)
    buffer.cut(np.array([True, False]))
    buffer.add(np.float32([[50], [4]]), torch.zeros(2, 1), nothing, np.float32([[51], [6]]), no, no)
    with mock.patch.object(torch, "randint", lambda high, size, generator: torch.arange(high)):
        batch = buffer.sample(1, 4, torch.Generator())
    pairs = zip(batch.observation.flatten().tolist(), batch.next_observation.flatten().tolist(), strict=True)
    assert sorted(pairs) == [(1, 3), (2, 4), (4, 6), (50, 51)]


def test_cut_of_an_empty_buffer_leaves_it_empty() -> None:
    buffer = new_buffer(2, 2)
    buffer.cut(np.array([True, True]))
    assert buffer.size == 0
    assert (buffer.ending == -1).all()


def test_sampling_is_uniform_over_the_ring() -> None:
    life, draws = lived(rows=17, num_envs=3, steps=40), 51 * 1000
    batch = life.buffer.sample(51, 1000, torch.Generator().manual_seed(0))
    assert batch.observation.shape == batch.next_observation.shape == (51, 1000, OBSERVATION_SIZE)
    assert batch.action.shape == (51, 1000, ACTION_SIZE)
    assert batch.reward.shape == batch.terminated.shape == (51, 1000)
    assert batch.terminated.dtype == torch.bool
    drawn = as_tuples(batch)
    counts = np.array([drawn.count(transition) for transition in life.newest(51)])
    assert counts.sum() == draws  # nothing else is ever drawn
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 86.66  # the 0.999 quantile with 50 degrees of freedom


@pytest.mark.parametrize("steps", [0, 3, 6, 7, 20])
def test_state_goes_through_a_weights_only_file_and_goes_on_alike(steps: int) -> None:
    life = lived(rows=6, num_envs=2, steps=steps)
    file = io.BytesIO()
    torch.save(life.buffer.state_dict(), file)
    file.seek(0)
    twin = lived(rows=6, num_envs=2, steps=9, seed=1)  # what a buffer held before must leave no trace
    twin.buffer.load_state_dict(torch.load(file, weights_only=True))
    twin.rows, twin.observation, twin.made = list(life.rows), life.observation, life.made
    for kinds in [[RUNNING, TERMINATED], [TRUNCATED, RUNNING], [CUT, BOTH]] * 5:
        life.step(kinds)
        twin.step(kinds)
        assert everything(twin.buffer) == twin.newest(12)
        ours, theirs = (each.buffer.sample(2, 8, torch.Generator().manual_seed(steps)) for each in (life, twin))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_state_is_not_changed_by_what_comes_later() -> None:
    life = lived(rows=4, num_envs=2, steps=9)
    state, before = life.buffer.state_dict(), everything(life.buffer)
    for _ in range(5):
        life.step([TERMINATED, TRUNCATED])
    twin = new_buffer(4, 2)
    twin.load_state_dict(state)
    assert everything(twin) == before


def test_state_of_another_size_is_refused_with_both_sizes() -> None:
    state = lived(rows=6, num_envs=2, steps=4).buffer.state_dict()
    with pytest.raises(ValueError, match=r"buffer_size=12 and this module 16: resume with buffer_size=12\."):
        new_buffer(8, 2).load_state_dict(state)


def test_a_million_bipedal_walker_transitions_take_135_megabytes() -> None:
    assert ReplayBuffer(1_000_000, 16, 24, 4).nbytes <= 135e6


def test_memory_stays_in_bounds_when_an_episode_ends_every_50_steps() -> None:
    buffer = ReplayBuffer(100_000, 1000, 24, 4)
    observation, action = np.zeros((1000, 24), dtype=np.float32), torch.zeros(1000, 4)
    reward, terminated = np.zeros(1000, dtype=np.float32), np.zeros(1000, dtype=bool)
    for step in range(1000):  # ten times round: what was put aside for forgotten transitions is forgotten, too
        ended = np.arange(1000) % 50 == step % 50
        buffer.add(observation, action, reward, observation, terminated, ended)
    assert buffer.size == 100_000
    assert buffer.nbytes <= 13.5e6
    held = sum(t.untyped_storage().nbytes() for t in vars(buffer).values() if isinstance(t, torch.Tensor))
    assert held == buffer.nbytes  # nothing else is kept


# Exploration noise. An estimate from N independent lanes: a variance has the standard error √(2 / N), a correlation
# 1 / √N at most; five of them are never reached by chance.

LANES = 40_000


def noises(correlation: float, firsts: list[bool], lanes: int = LANES) -> list[np.ndarray]:
    noise, random = ExplorationNoise(correlation, lanes, 1), torch.Generator().manual_seed(0)
    return [noise.draw(np.full(lanes, first), random)[:, 0].numpy().copy() for first in firsts]


def test_noise_without_correlation_is_white() -> None:
    random = torch.Generator().manual_seed(0)
    for found in noises(0.0, [True, False, False], lanes=8):
        np.testing.assert_array_equal(found, torch.randn(8, 1, generator=random)[:, 0].numpy())


def test_noise_is_in_float32_whatever_number_the_correlation_is() -> None:
    noise = ExplorationNoise(np.float64(0.5), 2, 1).draw(np.array([True, False]), torch.Generator())
    assert noise.dtype == torch.float32


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_noise_is_stationary_with_the_given_correlation(correlation: float) -> None:
    steps = noises(correlation, [True] + [False] * 5)
    for noise in steps:
        assert noise.mean() == pytest.approx(0, abs=5 / LANES**0.5)
        assert noise.var() == pytest.approx(1, abs=5 * (2 / LANES) ** 0.5)
    for lag in (1, 2, 3):
        for before, after in zip(steps, steps[lag:], strict=False):
            assert np.corrcoef(before, after)[0, 1] == pytest.approx(correlation**lag, abs=5 / LANES**0.5)


def test_noise_is_fresh_at_an_episodes_first_step_alone() -> None:
    noise, random = ExplorationNoise(0.9, LANES, 1), torch.Generator().manual_seed(0)
    before = noise.draw(np.ones(LANES, dtype=bool), random)[:, 0].numpy().copy()
    first = np.arange(LANES) % 2 == 0
    after = noise.draw(first, random)[:, 0].numpy()
    half = LANES // 2
    assert np.corrcoef(before[first], after[first])[0, 1] == pytest.approx(0, abs=5 / half**0.5)
    assert np.corrcoef(before[~first], after[~first])[0, 1] == pytest.approx(0.9, abs=5 / half**0.5)
    assert after[first].var() == pytest.approx(1, abs=5 * (2 / half) ** 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_buffer_on_the_gpu_draws_what_one_on_the_cpu_does() -> None:
    here = lived(rows=6, num_envs=2, steps=20)
    apart = ReplayBuffer(12, 2, OBSERVATION_SIZE, ACTION_SIZE, device="cuda")
    apart.load_state_dict(here.buffer.state_dict())
    twin = Life(apart)
    twin.observation, twin.made, twin.rows = here.observation, here.made, list(here.rows)
    for kinds in [[RUNNING, TERMINATED], [TRUNCATED, RUNNING], [CUT, BOTH]] * 5:
        here.step(kinds)
        twin.step(kinds)
        ours, theirs = (each.buffer.sample(2, 8, torch.Generator().manual_seed(0)) for each in (here, twin))
        assert all(torch.equal(a, b.cpu()) for a, b in zip(ours, theirs, strict=True))


def test_what_is_drawn_lies_on_the_buffers_device_from_which_no_value_is_read_back() -> None:
    """On "meta", where tensors have no values: whoever asks for one gets an error."""
    life, random = Life(ReplayBuffer(12, 3, OBSERVATION_SIZE, ACTION_SIZE, device="meta")), torch.Generator()
    for step in range(17):
        life.step([TERMINATED if step % 2 else RUNNING, RUNNING, CUT])
        batch = life.buffer.sample(2, 5, random)
    assert {field.device.type for field in batch} == {"meta"}
    assert batch.next_observation.shape == (2, 5, OBSERVATION_SIZE)
