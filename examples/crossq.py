"""Learn to swing up a pendulum with CrossQ's critics, in under a minute on two cores.

pip install '.[flax]'
python examples/crossq.py

CrossQ (Bhatt et al. 2024) has no target networks: both critics see a batch of transitions and their
successors in one forward pass, so that one batch normalization serves both. It is batch
renormalization: the policy acts with the running statistics, which training then sees, too.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from bnjax.layers.linen import BatchRenorm

TORQUES = jnp.array([-2.0, 0.0, 2.0])
ENVIRONMENTS, EPISODE, BATCH, MEMORY = 16, 100, 256, 50_000
DISCOUNT, EXPLORE = 0.98, 0.1
OPTIMIZER = optax.adam(1e-3, b1=0.5)


class Critic(nn.Module):
    """The value of each action: two layers, each renormalized, as is the observation."""

    @nn.compact
    def __call__(self, observation, train):
        normalize = partial(BatchRenorm, use_running_average=not train, warm_up_steps=200)
        x = normalize()(observation)
        for _ in range(2):
            x = nn.relu(normalize()(nn.Dense(64)(x)))
        return nn.Dense(len(TORQUES))(x)


def observe(state):
    """Return (…, 3) of a state (…, 2): the pendulum's direction, and its angular velocity."""
    angle, velocity = state[..., 0], state[..., 1]
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity], -1)


def move(state, action):
    """Move each pendulum by 0.05 s: the next state, and the reward, 0 where it stands upright."""
    angle, velocity = state[..., 0], state[..., 1]
    torque = TORQUES[action]
    off = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
    reward = -(off**2 + 0.1 * velocity**2 + 0.001 * torque**2)
    velocity = jnp.clip(velocity + 0.05 * (15 * jnp.sin(angle) + 3 * torque), -8, 8)
    return jnp.stack([angle + 0.05 * velocity, velocity], -1), reward


def start(key, number):
    """Draw states anywhere, (number, 2)."""
    return jax.random.uniform(key, (number, 2), minval=-1, maxval=1) * jnp.array([jnp.pi, 2.0])


def values(variables, state):
    """Return the lesser of both critics' values of each action, with the running statistics."""
    each = jax.vmap(lambda v: Critic().apply(v, observe(state), train=False))(variables)
    return each.min(0)


def cost(params, batch_stats, batch):
    """Return the mean squared error of both critics, and their updated statistics."""
    state, action, reward, successor = batch

    def both(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        joint = observe(jnp.concatenate([state, successor]))  # one batch, one normalization
        q, new = Critic().apply(variables, joint, train=True, mutable=["batch_stats"])
        return *jnp.split(q, 2), new["batch_stats"]

    q, of_successor, new = jax.vmap(both)(params, batch_stats)
    target = reward + DISCOUNT * jax.lax.stop_gradient(of_successor.min(0).max(-1))
    chosen = jnp.take_along_axis(q, action[None, :, None], -1)[..., 0]
    return jnp.mean((chosen - target) ** 2), new


def train_step(carry, key):
    """Act once in every environment, remember, and learn from a batch of what is remembered."""
    variables, opt_state, memory, state, step = carry
    act, explore, draw, restart = jax.random.split(key, 4)
    greedy = values(variables, state).argmax(-1)
    anything = jax.random.randint(act, greedy.shape, 0, len(TORQUES))
    action = jnp.where(jax.random.uniform(explore, greedy.shape) < EXPLORE, anything, greedy)
    successor, reward = move(state, action)
    place = (step * ENVIRONMENTS + jnp.arange(ENVIRONMENTS)) % MEMORY
    new = state, action, reward, successor
    memory = jax.tree.map(lambda kept, one: kept.at[place].set(one), memory, new)
    state = jnp.where((step + 1) % EPISODE == 0, start(restart, ENVIRONMENTS), successor)

    known = jnp.minimum((step + 1) * ENVIRONMENTS, MEMORY)
    chosen = jax.random.randint(draw, (BATCH,), 0, known)
    batch = jax.tree.map(lambda kept: kept[chosen], memory)
    params, batch_stats = variables["params"], variables["batch_stats"]
    (loss, batch_stats), grads = jax.value_and_grad(cost, has_aux=True)(params, batch_stats, batch)
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
    return (variables, opt_state, memory, state, step + 1), loss


@jax.jit
def train(carry, keys):
    """Take a step for each key."""
    return jax.lax.scan(train_step, carry, keys)


@jax.jit
def evaluate(variables, key):
    """Return the mean sum of rewards over 200 greedy steps, from 64 states."""

    def step(state, _):
        return move(state, values(variables, state).argmax(-1))

    return jax.lax.scan(step, start(key, 64), None, 200)[1].sum(0).mean()


def main(rounds=8, steps=500):
    """Train, and evaluate after each round."""
    key = jax.random.key(0)
    state = start(key, ENVIRONMENTS)
    init = partial(Critic().init, train=False)
    variables = jax.vmap(init, (0, None))(jax.random.split(key, 2), observe(state))
    memory = (
        jnp.zeros((MEMORY, 2)),
        jnp.zeros(MEMORY, int),
        jnp.zeros(MEMORY),
        jnp.zeros((MEMORY, 2)),
    )
    carry = variables, OPTIMIZER.init(variables["params"]), memory, state, jnp.zeros((), int)
    returns = [float(evaluate(variables, key))]
    print(f"before: return {returns[0]:.0f}")
    for number in range(1, rounds + 1):
        carry, losses = train(carry, jax.random.split(jax.random.fold_in(key, number), steps))
        returns.append(float(evaluate(carry[0], key)))
        done = number * steps
        print(f"step {done}: loss {losses[-100:].mean():.3f}, return {returns[-1]:.0f}")
    return returns


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
