"""DQN family: settings, presets, Q-network, exploration, targets and the learner.

May import optim, replay and runs. Begin with `learner.py`.
"""
