"""The page of domain transfer: does the analogy classify the target better than the source does?

`analogies` computes and judges, `tables` and `figure` show; `build` puts them in order.
"""
