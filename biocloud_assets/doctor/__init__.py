"""What an environment lacks before its first run: the checks of `biocloud doctor`.

A check is a function that yields findings. `checkup` has the list of all, and runs them; each other module has the
checks of one subject. Nothing is changed, unless a probe on a cluster is asked for.
"""
