"""Draws the people of the demo data and photographs them. Made for tools/make_demo.py.

canvas: painting. people: what tells them apart. head: a head, drawn once. features: eyes, brows, mouth and
what is worn, for each photograph. photo: pose, light, place and camera. album: many photographs, on
several processes, as files. trees and tree_*: small data sets in the layouts of published benchmarks.
"""
