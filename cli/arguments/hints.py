"""Hints for options that do not exist: their names in other libraries, and close matches."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torso.cli.arguments.options import Option

# torso's name of a setting, and what others call it. Of several names of torso's, each command has one at most.
_OTHER_NAMES = {
    "learning_rate": "lr alpha step_size rate",
    "steps": "step total_steps num_steps n_steps max_steps timesteps total_timesteps num_timesteps frames",
    "max_epochs": "epochs epoch num_epochs n_epochs max_iter iterations",
    "batch_size": "batch bs minibatch mini_batch minibatch_size mini_batch_size",
    "gamma": "discount discount_factor",
    "dataset": "data data_set ds",
    "env": "environment env_id env_name game gym_id",
    "out": "o output output_dir out_dir outdir dir directory logdir log_dir save save_dir save_path run_dir",
    "seed": "s random_state random_seed rng",
    "hidden": "hidden_sizes hidden_size hidden_layers hidden_units layers units net_arch width widths",
    "net": "network arch architecture policy",
    "algorithm": "algo method",
    "optimizer": "optim opt optimiser",
    "normalise_observations": "normalize_observations normalize normalise obs_norm",
    "max_grad_norm": "grad_clip clip_grad gradient_clip max_gradient_norm clip_norm",
    "weight_decay": "wd decay",
    "patience": "early_stopping",
    "replay_capacity": "buffer_size buffer replay_size memory_size memory capacity replay_buffer_size",
    "min_replay_size": "learning_starts learn_start warmup min_replay warmup_steps",
    "learn_period": "train_freq train_frequency update_freq update_period learn_freq",
    "updates_per_phase": "gradient_steps updates",
    "target_update_period": "target_update target_update_interval target_update_freq target_network_frequency",
    "target_update_rate": "tau polyak",
    "epsilon_start": "eps_start start_e exploration_initial_eps initial_epsilon epsilon eps",
    "epsilon_end": "eps_end end_e exploration_final_eps final_epsilon min_epsilon",
    "epsilon_decay_steps": "eps_decay epsilon_decay exploration_fraction exploration_steps",
    "n_step": "nstep n multi_step",
    "double": "double_dqn double_q",
    "dueling": "dueling_dqn",
    "noisy": "noisy_net noisynet noisy_nets",
    "noisy_std": "sigma0 sigma_init noisy_sigma",
    "num_atoms": "atoms n_atoms",
    "v_min": "vmin",
    "v_max": "vmax",
    "num_quantiles": "quantiles n_quantiles",
    "num_fractions": "num_taus n_taus taus num_tau_samples sample_size",
    "exploration": "explorer exploration_policy",
    "prioritized": "per prioritised prioritized_replay",
    "evaluation_period": "eval_freq eval_period eval_interval evaluation_freq eval_every",
    "evaluation_episodes": "eval_episodes n_eval_episodes num_eval_episodes",
    "checkpoint_period": "checkpoint_freq save_freq save_every checkpoint_interval",
    "log_period": "log_interval log_freq log_every",
    "num_envs": "n_envs envs nenvs",
    "num_threads": "threads n_threads n_jobs",
    "device": "cuda gpu",
    "resume": "continue restore restart",
    "episodes": "n_episodes num_episodes n e",
    "top_k": "k topk top",
    "address": "addr url server",
    "port": "p",
    "epsilons": "eps epsilon",
    "find_learning_rate": "lr_find lr_finder find_lr",
}


def did_you_mean(word: str, options: Sequence[Option]) -> str:
    """Return the options that an unknown one may mean, as text; empty where none is near."""
    name = word.lstrip("-").replace("-", "_").lower().removeprefix("no_")
    known = {option.name: option.flag for option in options if not option.is_positional}
    others = [mine for mine, theirs in _OTHER_NAMES.items() if name in theirs.split() and mine in known]
    if name == "steps" and "max_epochs" in known:
        others.append("max_epochs")
    if name in ("epochs", "max_epochs") and "steps" in known:
        others.append("steps")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return " or ".join(dict.fromkeys(known[each] for each in others or close))
