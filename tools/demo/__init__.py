"""Draws the people of the demo data and photographs them, for tools/make_demo.py and tools/evaluate_demo.py.

canvas: painting. people: what distinguishes one person from another. head: a head, drawn once for a person.
features: eyes, brows, mouth, glasses and hats, drawn for each photograph. photo: pose, light, background and
camera. album: many photographs, on several processes, as files. tree_*: small data sets in the layouts of
published benchmarks. trees: the list of them, and of the protocols that read them.
"""
