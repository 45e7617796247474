"""`reskd dataset check`: which videos decode, tried where they can do no harm.

verdicts   what a video may be found to be, and on what evidence
trial      the trial of one video
child      a process that tries video after video and may die of any
pool       several of them, watched: a hang or a crash is a verdict
checking   an index from beginning to end, and the quarantine list
cli        the command
"""
