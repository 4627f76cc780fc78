"""Drills: mutated inputs of every kind and kills at every moment, each judged by one oracle.

`make drills` carries all of them out; `tests/test_drills.py` a seeded sample of each. A case depends on its
corpus, the seed and its number only: `python -m tests.drills --only json:17` repeats one.
"""
