"""The playground: a page in the browser that draws digits for a classifier, and shows what its network sees in them.

May import every folder but cli, aiohttp among others' packages. Begin with `run.py`.
"""
