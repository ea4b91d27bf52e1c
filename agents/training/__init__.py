"""Training of agents: `DQN`, the interaction of agent and env, the session, the driver, training runs.

May import every other room of agents. Begin with `driver.py`, then `interaction.py`.
"""
