"""Play: games on the page, played by a model, at random or by hand, with what the network expects of each action.

May import what stands loose in the playground below its page. Begin with `player.py`.
"""
