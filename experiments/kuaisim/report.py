"""KuaiSim's own report, for parity with the lab's numbers: means of the last ten entries of a run that never ends.

It is an option and never the default: ten entries are few, its Len, R_each and R_cum come from different users,
and early leavers weigh as much as a full batch, so that R_cum / (Len R_each) is not 1: .97 in KuaiSim's own logs, .88 to 1.03
in the cells of the paper's Tables 2 and 3. `evaluation.sessions.run_sessions` gives exact sums over complete sessions.

Source: Applied-Machine-Learning-Lab/KuaiSim, code/model/agent/BaseRLAgent.py (`eval_history`, `get_report`) and
code/env/KREnvironment_WholeSession_GPU.py (`env_history`).

Shapes: T steps, B users in parallel.
"""

from dataclasses import replace

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.cli.pipeline import newest
from dsrm_jax.config import Config, TrainingConfig
from dsrm_jax.evaluation.sessions import of_each
from dsrm_jax.purify.perception import SEED_AXES, Perception
from dsrm_jax.runs.evaluate import rule_of
from dsrm_jax.runs.pieces import environment_of
from dsrm_jax.runs.prepare import Say, seed_keys
from dsrm_jax.runs.run_directory import RunDirectory, locked, read_summary, write_summary
from dsrm_jax.simulator.environment import Environment
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act, Step, play
from dsrm_jax.types import Json, PyTree

SESSIONS_LONG = 3  # steps of a trace, in longest sessions: by then the slots' sessions are no longer in step


@struct.dataclass
class Trace:
    """What B slots showed over T steps, each slot taking the next user as soon as one leaves.

    Attributes:
        ended: `(T, B)` bool, the slot's user left at this step.
        length: `(T, B)` int32, steps of the slot's session so far, this one included.
        total: `(T, B)` float32, its summed rewards so far.
        reward: `(T, B)` float32 in [0, 1], mean click of the slate.
        popular_share: `(T, B)` float32 in [0, 1].
    """

    ended: Bool[Array, "T B"]
    length: Int[Array, "T B"]
    total: Float[Array, "T B"]
    reward: Float[Array, "T B"]
    popular_share: Float[Array, "T B"]


def record_trace(
    key: Key[Array, ""],
    act: Act,
    environment: Environment,
    world: World,
    *,
    num_steps: int,
    num_users: int = TrainingConfig.num_users,
) -> Trace:
    """Run `num_steps` batched steps with a new user in each slot that becomes free; pure.

    Args:
        key: typed PRNG key; consumed.
        act: how slates are filled; the lab's report comes from the training world, with exploration on.
        environment: the simulator.
        world: any world.
        num_steps: T.
        num_users: B.
    """

    def keep(_: jax.Array, step: Step) -> Trace:
        return Trace(
            ended=step.info["ended"],
            length=step.info["session_length"],
            total=step.info["session_return"],
            reward=step.reward,
            popular_share=step.info["popular_share"],
        )

    return play(key, act, environment, world, keep, num_users=num_users, num_steps=num_steps)[1]


def last_ten(trace: Trace, *, entries: int = 10) -> dict[str, float]:
    """Return the report as KuaiSim and its forks compute it from a trace.

    Args:
        trace: host or device arrays of one seed.
        entries: how many of the last entries are averaged.

    Returns:
        * `length`: one entry per user who left, slots in order; a step at which nobody left repeats the entry
          before it, and the first is 0;
        * `return`: one entry per step at which somebody left, those users' mean return; the first is 0;
        * `reward` and `ad`: one entry per step, the batch's mean reward and abs(2p - 1) of its popular share p.
    """
    length, total = [0.0], [0.0]
    ended = np.asarray(trace.ended)
    for left, steps, sums in zip(ended, np.asarray(trace.length), np.asarray(trace.total), strict=True):
        length += steps[left].tolist() or length[-1:]
        total += [float(np.mean(sums[left]))] if left.any() else []
    reward = np.mean(np.asarray(trace.reward, np.float64), axis=1)
    share = np.mean(np.asarray(trace.popular_share, np.float64), axis=1)
    report = {"length": length, "return": total, "reward": reward, "ad": np.abs(2 * share - 1)}
    return {name: float(np.mean(values[-entries:])) for name, values in report.items()}


def lab_report(config: Config, agent_state: PyTree, world: World, perception: Perception) -> dict[str, list[float]]:
    """Return the lab's report of a trained method, seed by seed: the policy explores, in the world that it was trained in.

    Args:
        config: of the run.
        agent_state: trained state with a leading seed axis.
        world: the training world.
        perception: as trained, one purifier per seed.

    Returns:
        What `last_ten` gives, a list over seeds each.
    """
    exploring = replace(config, evaluation=replace(config.evaluation, greedy=False))
    environment = environment_of(config)

    def record(key: jax.Array, state: PyTree, world: World, perception: Perception) -> Trace:
        return record_trace(
            key,
            rule_of(exploring, config.agent.method, state, world, perception),
            environment,
            world,
            num_steps=SESSIONS_LONG * environment.max_steps,
            num_users=config.training.num_users,
        )

    run = jax.jit(jax.vmap(record, in_axes=(0, 0, None, SEED_AXES)))
    traces = jax.device_get(run(seed_keys(config, 2), agent_state, world, perception))
    reports = [last_ten(trace) for trace in of_each(traces)]
    return {name: [report[name] for report in reports] for name in reports[0]}


def report_run(run: RunDirectory, config: Config, say: Say) -> Json:
    """Report the newest good checkpoint of a run, and keep the report in its summary.

    Args:
        run: its folder.
        config: its configuration.
        say: told the means over seeds.

    Returns:
        `{"kuaisim_last10": ...}`, what `lab_report` gives.

    Raises:
        InputError: the run has no usable checkpoint.
    """
    _, saved, _, worlds, _ = newest(run, config, say)
    lab = lab_report(config, saved.train.agent, worlds.train, saved.perception)
    cells = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in lab.items())
    say(f"last ten entries, as KuaiSim reports them (training world, exploring): {cells}")
    report = {"kuaisim_last10": lab}
    with locked(run):
        earlier = read_summary(run) if run.summary.exists() else {}
        write_summary(run, earlier | report)
    return report
