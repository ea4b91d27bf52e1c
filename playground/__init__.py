"""The playground: a page in the browser that shows what torso's networks do and how they learn, part by part.

May import every folder but cli, aiohttp among others' packages. Begin with `run.py`.
"""
