"""fastnn beside what a user would take instead, and beside the limit of the machine: `python -m fastnn.benchmarks`.

One `bench_<op>.py` per op family holds its table of shapes. Nothing heavy is imported until a case runs.
"""
