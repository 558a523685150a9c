"""Red team: attacks on a release that are made from a seed, judged without a judge, and harmless by construction.

`attacks` makes and judges them, `running` answers them with a release and tries its guards, `result` has the rates.
"""
