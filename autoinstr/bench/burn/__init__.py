"""A variant that costs a known amount: a measurement that does not find it measures nothing.

This folder goes onto PYTHONPATH: ``sitecustomize.py`` is the start, ``_autoinstr_burn.py`` the work. Neither imports anything of
ours, for the program may run in an environment of its own.
"""
