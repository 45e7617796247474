"""What a CUDA card has to show: rates, ratios and equalities of both stages, on made-up frames.

    python -m tests.campaigns.gpu --json                       # on a card, at most 8 minutes
    python -m tests.campaigns.gpu --scale tiny --json          # on a CPU: does every row work?
    python -m tests.campaigns.gpu --table FILE.json            # results as a table of Markdown

No video decoder, weights or network are needed. Every row is tried by itself, in the order of its
worth, in a process that may crash or hang; results are written after each, so what ends a run early
loses nothing. On a machine without a card rows are tried and stay "not measured".
"""
