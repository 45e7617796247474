"""The k-th file operation of a command fails, or the process dies with it: is anything lost?"""
