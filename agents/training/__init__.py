"""Training of agents: `DQN`, the loop of agent and env, the state of a session, the driver, training runs.

May import every other room of agents. Begin with `driver.py`, then `core.py`.
"""
