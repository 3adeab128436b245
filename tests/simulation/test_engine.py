"""The engine: a walk's result does not depend on its company, its order, or the memory there is."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from worlds import Mixture

from turningpoint.diffusion.denoiser import NetworkDenoiser
from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.guidance import Guided
from turningpoint.diffusion.sampler import sampler
from turningpoint.diffusion.schedule import EDM, VP, RectifiedFlow
from turningpoint.errors import SimulationError
from turningpoint.simulation.engine import Engine
from turningpoint.simulation.noise import Address, RecordedNoise, SeededNoise
from turningpoint.simulation.walk import FromImage, FromNoise, FromState, FromTrunk, Record, Walk

NOISE = SeededNoise(11)
SETTINGS = {"ddpm": {}, "ddim": {}, "euler": {}, "heun": {}}
STOCHASTIC = {"ddpm": {}, "ddim": {"eta": 0.5}, "euler": {"churn": 3.0}, "heun": {"churn": 3.0}}


def mixture() -> Mixture:
    return Mixture([[2.0, 0.0, 0.5], [-2.0, 1.0, 0.0]], std=0.5, weights=[0.7, 0.3])


class SmallConv(nn.Module):
    """Convolutions with a time and, perhaps, a label: (B, 1, 6, 6) to the same."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
            self.told = nn.Embedding(classes + 1, 8)

    def forward(self, x, step, label=None):
        h = self.first(x) + torch.sin(step)[:, None, None, None]
        if label is not None:
            h = h + self.told(label)[:, :, None, None]
        return self.last(torch.nn.functional.silu(h))


def conv(classes: int | None = None) -> NetworkDenoiser:
    network = SmallConv(classes or 0).requires_grad_(False)
    return NetworkDenoiser(network, VP(), (1, 6, 6), predicts="v", n_classes=classes, name="conv")


def fresh(i, steps=8, clock=None, time=1.0, **more):
    """A walk from noise; walks of different items are of different lengths."""
    times = Grid(steps + i % 3).below(time, clock or VP())
    return Walk(Address(i, i % 2, time), FromNoise(), times, **more)


def finals(engine, walks):
    """Final items by address; every walk ends once."""
    results = {}
    for finished in engine.simulate(walks):
        assert finished.walk.address not in results
        results[finished.walk.address] = finished.values["final"]
    return results


def assert_same(one, other, atol=1e-5):
    assert set(one) == set(other)
    for address in one:
        np.testing.assert_allclose(one[address], other[address], rtol=0, atol=atol, err_msg=str(address))


def by_hand(model, method, noise, walk):
    """One walk, one item, `Sampler.step` in a loop."""
    t0 = float(walk.times[0])
    z = torch.from_numpy(noise.draw(walk.address, 0, model.shape))
    x = z * float(model.schedule.sigma(t0))
    if isinstance(walk.start, FromImage):
        x = x + float(model.schedule.alpha(t0)) * torch.from_numpy(walk.start.x_0)
    if isinstance(walk.start, FromState):
        x = torch.from_numpy(walk.start.x_t)
    x = x[None].float()
    states, estimates = [x[0].numpy()], []
    for k, (t, s) in enumerate(zip(walk.times[:-1], walk.times[1:], strict=True)):
        z = torch.from_numpy(noise.draw(walk.address, k + 1, model.shape))[None]
        first = []

        def denoise(x_t, time, first=first):
            first.append(model(x_t, time.float()))
            return first[-1]

        ends = torch.tensor([t], dtype=torch.float64), torch.tensor([s], dtype=torch.float64)
        with torch.inference_mode():
            x = method.step(denoise, x, *ends, model.schedule, z if method.stochastic else None)
        states.append(x[0].numpy())
        estimates.append(first[0][0].numpy())
    return states, estimates


class TestCompany:
    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize("stochastic", [False, True], ids=["plain", "noisy"])
    def test_batch_size_and_order(self, name, stochastic):
        settings = (STOCHASTIC if stochastic else SETTINGS)[name]
        walks = [fresh(i) for i in range(20)]

        def run(batch, order):
            return finals(Engine(mixture(), sampler(name, steps=8, **settings), NOISE, batch), order)

        reference = run(64, walks)
        assert_same(run(7, walks), reference)
        assert_same(run(2, walks[::-1]), reference)
        assert_same(run(7, [walks[k] for k in np.random.default_rng(0).permutation(20)]), reference)

    @pytest.mark.parametrize("name", ["ddpm", "heun"])
    def test_the_bits_do_not_depend_on_company(self, name):
        walks = [fresh(i) for i in range(11)]
        method = sampler(name, steps=8)
        together = finals(Engine(conv(), method, NOISE, 8), walks)
        backwards = finals(Engine(conv(), method, NOISE, 8), walks[::-1])
        for walk in walks:
            (alone,) = finals(Engine(conv(), method, NOISE, 8), [walk]).values()
            np.testing.assert_array_equal(together[walk.address], alone)
            np.testing.assert_array_equal(backwards[walk.address], alone)

    def test_a_generator_of_walks_is_drawn_as_slots_fall_free(self):
        drawn = []

        def source():
            for i in range(12):
                drawn.append(i)
                yield fresh(i)

        engine = Engine(mixture(), sampler("ddim"), NOISE, 4)
        running = engine.simulate(source())
        next(running)
        assert len(drawn) <= 5
        assert len(list(running)) == 11
        assert engine.steps == engine.evaluations == sum(len(fresh(i).times) - 1 for i in range(12))

    def test_a_full_batch(self):
        engine = Engine(mixture(), sampler("ddim"), NOISE, 4)
        walks = [fresh(i) for i in range(40)]
        finals(engine, walks)
        # empty slots only while the last walks end: at most one walk's length of calls
        assert engine.calls <= math.ceil(engine.evaluations / 4) + 10

    def test_padding_stays_finite(self):
        model, seen = conv(), []
        model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
        model.predicts = "epsilon"  # at t = 1 the noise is divided by alpha = 0.0066
        finals(Engine(model, sampler("ddim"), NOISE, 4), [fresh(0, steps=60)])
        assert all(bool(torch.isfinite(x).all()) for x in seen)


class TestByHand:
    @pytest.mark.parametrize("name", STOCHASTIC)
    @pytest.mark.parametrize("clock", [VP(), EDM(), RectifiedFlow()], ids=repr)
    def test_one_walk(self, name, clock):
        model = Mixture([[2.0, 0.0], [-2.0, 1.0]], std=0.5, schedule=clock)
        method = sampler(name, steps=9, **STOCHASTIC[name])
        walk = Walk(Address(3, 1), FromNoise(), Grid(9, "rho").times(clock))
        states, _ = by_hand(model, method, NOISE, walk)
        (got,) = finals(Engine(model, method, NOISE, 4), [walk]).values()
        np.testing.assert_allclose(got, states[-1], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("start", [FromImage, FromState])
    @pytest.mark.parametrize("name", STOCHASTIC)
    def test_starts(self, start, name):
        item = np.array([1.0, -0.5, 0.2], dtype=np.float32)
        method = sampler(name, steps=9, **STOCHASTIC[name])
        walk = Walk(Address(3, 1, 0.6), start(item), Grid(9).below(0.6, VP()))
        states, _ = by_hand(mixture(), method, NOISE, walk)
        (got,) = finals(Engine(mixture(), method, NOISE, 4), [walk]).values()
        np.testing.assert_allclose(got, states[-1], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", STOCHASTIC)
    def test_records(self, name):
        at = (1.0, 0.75, 0.4, 0.0)
        records = [
            Record("state", at),
            Record("estimate", at[:-1]),
            Record("state", (0.5,), "energy", function=lambda x: x.square().sum(1, keepdim=True)),
            Record("estimate", (0.9, 0.5), "class", function=mixture().classifier()),
        ]
        method = sampler(name, steps=8, **STOCHASTIC[name])
        walk = Walk(Address(5), FromNoise(), Grid(8).times(VP()), records=records)
        states, estimates = by_hand(mixture(), method, NOISE, walk)
        (finished,) = Engine(mixture(), method, NOISE, 4).simulate([walk])
        where = [int(np.flatnonzero(np.isclose(walk.times, t))[0]) for t in at]
        close = {"rtol": 1e-4, "atol": 1e-5}
        values = finished.values
        np.testing.assert_allclose(values["state"], [states[k] for k in where], **close)
        np.testing.assert_allclose(values["estimate"], [estimates[k] for k in where[:-1]], **close)
        half = states[int(np.flatnonzero(np.isclose(walk.times, 0.5))[0])]
        np.testing.assert_allclose(values["energy"], [[(half**2).sum()]], **close)
        assert values["class"].shape == (2, 2)
        np.testing.assert_array_equal(values["final"], values["state"][-1])

    def test_recorded_noise(self):
        walk = Walk(Address(0), FromNoise(), Grid(6).times(VP()))
        rows = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
        noise = RecordedNoise({walk.address: rows})
        states, _ = by_hand(mixture(), sampler("ddpm"), noise, walk)
        (got,) = finals(Engine(mixture(), sampler("ddpm"), noise, 4), [walk]).values()
        np.testing.assert_allclose(got, states[-1], rtol=1e-5, atol=1e-5)


class TestRecords:
    def simulate(self, *walks):
        return list(Engine(mixture(), sampler("ddim"), NOISE, 4).simulate(walks))

    def test_a_time_not_visited_is_nan(self):
        (finished,) = self.simulate(fresh(0, time=0.5, records=[Record("state", (0.9, 0.3))]))
        assert finished.values["state"].shape == (2, 3)
        assert np.isnan(finished.values["state"][0]).all()
        assert np.isfinite(finished.values["state"][1]).all()

    def test_no_time_visited_is_nan(self):
        (finished,) = self.simulate(fresh(0, time=0.5, records=[Record("state", (0.9, 0.7))]))
        assert np.isnan(finished.values["state"]).all()
        assert finished.values["state"].shape == (2, 3)

    def test_whole_numbers(self):
        def label(x):
            return x.argmax(1)

        (finished,) = self.simulate(fresh(0, records=[Record("estimate", (1.0, 0.5), function=label)]))
        assert finished.values["estimate"].shape == (2,)
        assert set(finished.values["estimate"].tolist()) <= {0, 1, 2}

    def test_values_are_owned(self):
        first, second = self.simulate(
            fresh(0, records=[Record("state", (0.0,))]), fresh(3, records=[Record("state", (0.0,))])
        )
        kept = second.values["state"].copy()
        first.values["final"][:] = 99
        np.testing.assert_array_equal(second.values["state"], kept)


class TestBranches:
    def tree(self, item=0, replicates=3):
        """A trunk with branches at 0.75 and 0.5, one of which branches again at 0.25."""

        def branch(time, replicate, **more):
            return Walk(Address(item, replicate, time), FromTrunk(time), Grid(8).below(time, VP()), **more)

        grown = [branch(0.75, k) for k in range(replicates)]
        grown += [branch(0.5, k, branches=[branch(0.25, k)]) for k in range(replicates)]
        return Walk(Address(item, 0, 1.0), FromNoise(), Grid(8).times(VP()), branches=grown)

    @pytest.mark.parametrize(("name", "calls"), [("ddim", 1), ("euler", 1), ("heun", 2)])
    def test_deterministic_branches_are_their_trunk(self, name, calls):
        engine = Engine(mixture(), sampler(name, steps=8), NOISE, 4)
        tree = self.tree()
        ends = finals(engine, [tree])
        assert len(ends) == 1 + 3 + 3 + 3
        for end in ends.values():
            np.testing.assert_allclose(end, ends[tree.address], rtol=0, atol=1e-5)
        # the trunk once: 8 steps; 6, 4 and 2 for each of three branches
        assert engine.steps == tree.steps() == 8 + 3 * (6 + 4 + 2)
        last_steps = 10 if calls == 2 else 0  # heun asks once in the step to 0
        assert engine.evaluations == calls * tree.steps() - last_steps

    def test_stochastic_branches_continue_the_trunk_with_their_own_noise(self):
        tree = self.tree()
        states, _ = by_hand(mixture(), sampler("ddpm"), NOISE, tree)
        ends = finals(Engine(mixture(), sampler("ddpm"), NOISE, 4), [tree])
        assert len({tuple(end) for end in ends.values()}) == 10
        for branch in tree.branches:
            at = int(np.flatnonzero(np.isclose(tree.times, branch.times[0]))[0])
            alone = Walk(branch.address, FromState(states[at]), branch.times)
            (end,) = finals(Engine(mixture(), sampler("ddpm"), NOISE, 4), [alone]).values()
            np.testing.assert_allclose(ends[branch.address], end, rtol=0, atol=1e-5)

    def test_many_trees(self):
        trees = [self.tree(i) for i in range(5)]
        one = finals(Engine(mixture(), sampler("ddpm"), NOISE, 3), trees)
        assert len(one) == 50
        assert_same(one, finals(Engine(mixture(), sampler("ddpm"), NOISE, 64), trees[::-1]))

    def test_branches_record(self):
        branch = Walk(
            Address(0, 1, 0.5),
            FromTrunk(0.5),
            Grid(8).below(0.5, VP()),
            records=[Record("state", (0.5, 0.3))],
        )
        trunk = Walk(
            Address(0),
            FromNoise(),
            Grid(8).times(VP()),
            records=[Record("state", (0.5,))],
            branches=[branch],
        )
        results = {
            f.walk.address: f.values for f in Engine(mixture(), sampler("ddpm"), NOISE).simulate([trunk])
        }
        parted = results[branch.address]["state"]
        np.testing.assert_array_equal(parted[0], results[trunk.address]["state"][0])
        assert np.isfinite(parted).all()


class Cramped(Mixture):
    """A model that runs out of memory above a batch size, and counts what it was asked."""

    limit, rows, failures = 5, 0, 0

    def forward(self, x_t, t, label=None):
        if len(x_t) > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.rows += len(x_t)
        return super().forward(x_t, t, label)


def cramped(limit=5) -> Cramped:
    model = Cramped([[2.0, 0.0, 0.5], [-2.0, 1.0, 0.0]], std=0.5, weights=[0.7, 0.3])
    model.limit = limit
    return model


class TestMemory:
    @pytest.mark.parametrize("name", ["ddpm", "heun"])
    def test_the_batch_is_halved(self, name):
        walks = [fresh(i) for i in range(30)]
        method = sampler(name, steps=8)
        roomy = Engine(mixture(), method, NOISE, 64)
        reference = finals(roomy, walks)
        engine = Engine(cramped(), method, NOISE, 64)
        assert_same(finals(engine, walks), reference)
        assert engine.batch <= 5
        assert engine.model.failures == 4  # 64, 32, 16, 8
        assert (engine.evaluations, engine.steps) == (roomy.evaluations, roomy.steps)

    @pytest.mark.parametrize("name", ["ddpm", "heun"])
    @pytest.mark.parametrize("after", [1, 3, 8, 13])
    def test_in_the_middle(self, name, after):
        """Memory runs out after some calls: walks in given-up slots wait, branches part once."""
        model = cramped(10**9)
        trees = [TestBranches().tree(i, 2) for i in range(6)]
        method = sampler(name, steps=8)
        roomy = Engine(mixture(), method, NOISE, 16)
        reference = finals(roomy, trees)
        engine, calls = Engine(model, method, NOISE, 16), []

        def shrink(module, inputs):
            calls.append(len(inputs[0]))
            if len(calls) == after:
                model.limit = 5

        model.register_forward_pre_hook(shrink)
        assert_same(finals(engine, trees), reference)  # finals() refuses a walk that ends twice
        assert engine.batch == 4
        assert (engine.evaluations, engine.steps) == (roomy.evaluations, roomy.steps)

    def test_records_survive(self):
        walks = [fresh(i, records=[Record("state", (1.0, 0.5, 0.0))]) for i in range(9)]
        kept = {}
        for limit in (5, 99):
            engine = Engine(cramped(limit), sampler("ddpm"), NOISE, 16)
            for finished in engine.simulate(walks):
                state = finished.values["state"]
                np.testing.assert_allclose(kept.setdefault(finished.walk.address, state), state, atol=1e-5)

    def test_the_smaller_batch_is_kept(self):
        engine = Engine(cramped(), sampler("ddim"), NOISE, 16)
        finals(engine, [fresh(0)])
        finals(engine, [fresh(1)])
        assert engine.model.failures == 2

    @pytest.mark.parametrize("error", [RuntimeError, MemoryError])
    def test_other_libraries_words(self, error):
        model, failed = mixture(), []

        def fail(module, inputs):
            if len(inputs[0]) > 4:
                failed.append(len(inputs[0]))
                raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

        model.register_forward_pre_hook(fail)
        finals(Engine(model, sampler("ddim"), NOISE, 8), [fresh(0)])
        assert failed == [8]

    def test_two_items_do_not_fit(self, refuses):
        engine = Engine(cramped(1), sampler("ddim"), NOISE, 16)
        with refuses(r"memory does not suffice for a batch of 2 items of shape \(3,\)", SimulationError):
            finals(engine, [fresh(i) for i in range(3)])

    def test_other_errors_are_not_memory(self):
        model = mixture()

        def fail(module, inputs):
            raise RuntimeError("shapes do not match")

        model.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            finals(Engine(model, sampler("ddim"), NOISE, 8), [fresh(0)])


class Poisoned(Mixture):
    """Answers NaN where a row of the state is the marked one's, below t = 0.5."""

    def forward(self, x_t, t, label=None):
        answer = super().forward(x_t, t, label)
        bad = (x_t[:, 0] > 5) & (t <= 0.5)
        return torch.where(bad[:, None], torch.nan, answer)


class TestNaN:
    def test_it_names_the_walk(self, refuses):
        walks = [
            Walk(Address(i, 2, 0.5), FromState(np.full(3, 9.0 * (i == 3))), Grid(8).below(0.5, VP()))
            for i in range(6)
        ]
        text = r"the network of 'mixture' returned NaN .* t = 0\.5, .* item 3, replicate 2, .* t = 0\.5"
        with refuses(text, SimulationError):
            finals(Engine(Poisoned([[0.0, 0.0, 0.0]], std=0.5), sampler("ddim"), NOISE, 4), walks)

    def test_an_engine_can_be_used_again(self, refuses):
        model, calls = mixture(), []

        def poison(module, inputs, answer):
            calls.append(len(answer))
            return answer * math.nan if len(calls) == 5 else answer

        model.register_forward_hook(poison)
        engine = Engine(model, sampler("ddim"), NOISE, 2)
        with refuses("NaN", SimulationError):  # while branches wait for a slot
            finals(engine, [TestBranches().tree(1), fresh(2)])
        assert set(finals(engine, [fresh(7)])) == {fresh(7).address}

    def test_an_abandoned_simulation_leaves_nothing(self):
        engine = Engine(mixture(), sampler("ddim"), NOISE, 2)
        running = engine.simulate([TestBranches().tree(1)])
        next(running)
        running.close()
        assert set(finals(engine, [fresh(7)])) == {fresh(7).address}

    def test_large_numbers_are_not_infinite(self):
        class Large(nn.Module):
            def forward(self, x, step):
                return torch.full_like(x, 3e38)  # their sum overflows, they do not

        model = NetworkDenoiser(Large(), VP(), (3,), predicts="x0")
        walk = Walk(Address(0, 0, 0.5), FromNoise(), np.array([0.5, 0.0]))
        (end,) = finals(Engine(model, sampler("ddim"), NOISE, 2), [walk]).values()
        np.testing.assert_array_equal(end, np.full(3, 3e38, dtype=np.float32))


class Told:
    """A model that is always told one label."""

    def __init__(self, model, label):
        self.model, self.label, self.schedule, self.shape = model, label, model.schedule, model.shape

    def __call__(self, x_t, t):
        return self.model(x_t, t, torch.full((len(x_t),), self.label))


class TestLabels:
    def test_mixed_labels(self):
        conditions = [{"label": 0}, {"label": 2}, {}, {"label": 1}, {"label": 0}]
        walks = [fresh(i, condition=conditions[i % 5]) for i in range(10)]
        for model in (conv(3), Guided(conv(3), 2.5)):
            together = finals(Engine(model, sampler("ddim"), NOISE, 4), walks)
            for walk in walks:
                alone = Told(model, walk.condition.get("label", -1))
                states, _ = by_hand(alone, sampler("ddim"), NOISE, walk)
                np.testing.assert_allclose(together[walk.address], states[-1], rtol=0, atol=1e-4)

    def test_a_label_changes_the_result(self):
        one = finals(Engine(conv(3), sampler("ddim"), NOISE, 4), [fresh(0, condition={"label": 1})])
        two = finals(Engine(conv(3), sampler("ddim"), NOISE, 4), [fresh(0)])
        assert np.abs(one[fresh(0).address] - two[fresh(0).address]).max() > 1e-3


class TestKnownLaw:
    def test_uturns_keep_their_class_as_often_as_the_posterior_says(self):
        """Two components at +-2 in 8 dimensions, std 0.5, t = 0.4: E[sum_c p(c | x_t)^2] = 0.7615."""
        means = np.zeros((2, 8))
        means[:, 0] = 2, -2
        world = Mixture(means, std=0.5)
        count = 2000
        images, labels = world.sample(count, seed=1)
        times = Grid(60).below(0.4, VP())
        walks = (Walk(Address(i, 0, 0.4), FromImage(images[i].numpy()), times) for i in range(count))
        ends = finals(Engine(world, sampler("ddpm"), NOISE, 256), walks)
        final = torch.from_numpy(np.stack([ends[Address(i, 0, 0.4)] for i in range(count)]))
        kept = (world.classifier()(final).argmax(1) == labels).double().mean()
        # four standard errors of a share of 2000, and 0.005 for 24 steps
        assert abs(float(kept) - 0.7615) < 4 * math.sqrt(0.7615 * 0.2385 / count) + 0.005
