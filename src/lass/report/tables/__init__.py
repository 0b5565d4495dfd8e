"""Tables and figures of the paper, from results folders: `python -m lass.report.tables 2`.

definition.py    the YAML files in experiments/tables: rows, columns, values of the paper
folders.py       scores of a results folder
plan.py          which runs are missing, how long they take, and what is run
lines.py         the numbers of one row; statistics.py: mean, interval, paired difference; seconds.py: measured times
likelihoods.py   the rows of Table 1
writers.py       Markdown, LaTeX and CSV
plots.py         quality against seconds
pictures.py      separations of the same mixtures side by side
"""
